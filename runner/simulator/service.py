"""The simulated service without its sockets: judges a request, acts, and records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from runner.simulator import delivery
from runner.simulator.audit import BODY_CHARACTERS, AuditEntry, AuditLog, printable
from runner.simulator.endpoints import Answer, Route, answer, refusal, route
from runner.simulator.faults import NOT_ACTED, Fault, Faults, OutageKind
from runner.simulator.limits import Limits
from runner.simulator.plan import FaultPlan
from runner.simulator.state import Behavior, Syncs, timestamp


class Call(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One request as it came."""

    method: str
    raw_path: str
    headers: Mapping[str, str]
    """Names compare without regard to case."""
    body: bytes | None
    """None: it broke off, or could not be read."""
    too_large: bool
    """Whether the body was not read because of its size."""
    at_s: float
    """When its head had arrived."""
    in_flight: int


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks. Lives as long as one request, because it holds the token."""

    secret: str
    """The token, or what stood in its place; must not be written anywhere."""
    token_hash: str | None
    user: str | None
    """None when the token was missing or not accepted."""

    def strip(self, text: str) -> str:
        """Return *text* without the secret, which is not empty."""
        return text.replace(self.secret, "[token]")


class Verdict(msgspec.Struct, gc=False):
    """What a request gets: the answer, what spoils it, and when it leaves."""

    given: Answer
    headers: delivery.Headers
    fault: Fault | None = None
    name: str | None = None
    """Of the fault in the audit."""
    delay_s: float = 0.0


class Service:
    """Everything the simulator knows and decides. Never waits and never sends."""

    def __init__(
        self,
        *,
        verify: Callable[[str], str | None],
        seed: int,
        faults: Faults,
        behavior: Behavior,
        log: AuditLog,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.syncs = Syncs(seed=seed, behavior=behavior, now=now, wall_at=self.wall_at)
        self.plan = FaultPlan(faults=faults, seed=seed)
        self.log = log
        self.down: OutageKind | None = None
        """The outage that was switched on by hand."""
        self._verify, self._now, self._wall = verify, now, wall
        self._refused: set[str | None] = set()
        self._faults = faults
        self.start()

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self._faults

    def start(self) -> None:
        """Count planned outages from now on, with full token buckets."""
        self._started_s = self._now()
        self.use(self._faults)

    def use(self, faults: Faults) -> None:
        """Go by *faults* from now on, with full token buckets."""
        self._faults = faults
        self.plan.use(faults)
        self._limits = Limits(faults=faults, started_s=self._started_s, now_s=self._now())

    def wall_at(self, at_s: float) -> float:
        """Return the service's date (seconds since the epoch) at a moment of its clock."""
        return self._wall() - self._now() + at_s + self.syncs.behavior.clock_skew_s

    def handle(self, call: Call) -> Verdict:
        """Judge one request, act on it and record it."""
        caller = self._identify(call.headers.get("Authorization", ""))
        to = route(method=call.method, raw_path=call.raw_path)
        wall_s = self.wall_at(call.at_s)
        verdict = self._judge(call, to=to, caller=caller, wall_s=wall_s)
        self._record(call, verdict, sync_id=to.sync_id, caller=caller, wall_s=wall_s)
        number = self.log.count
        verdict.headers.update(self._limits.fields(self._now()))
        verdict.headers["Date"] = delivery.http_date(int(wall_s))
        verdict.headers["X-Request-Id"] = f"sim-{number}"
        if self._faults.set_cookie:
            verdict.headers["Set-Cookie"] = f"session=sim-{number}; Path=/"
        return verdict

    def _identify(self, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return Caller(authorization, None, None)
        return Caller(token, self.log.hash_token(token), self._verify(token))

    def _judge(self, call: Call, *, to: Route, caller: Caller, wall_s: float) -> Verdict:
        if call.too_large:
            return Verdict(refusal(413, "request entity too large"), {})
        if call.body is None:
            return Verdict(refusal(400), {}, Fault.DROP_BEFORE, "broken_request")
        down = self.down or self._limits.outage(call.at_s)
        if down is not None:
            return self._out(down, wall_s)
        if to.endpoint is None:
            path = printable(call.raw_path)
            return Verdict(refusal(404, f"Cannot {call.method} {path}"), {})
        if caller.user is None:
            return Verdict(refusal(401), {})
        wait_s = self._limits.wait_s(user=caller.user, now_s=self._now())
        if wait_s:
            return Verdict(refusal(429), self._wait(wait_s, wall_s), None, "rate_limit")
        if caller.token_hash in self._refused:
            return Verdict(refusal(401), {}, None, Fault.REVOKED.value)
        return self._serve(call, call.body, to=to, user=caller.user, caller=caller, wall_s=wall_s)

    def _out(self, down: OutageKind, wall_s: float) -> Verdict:
        if down is OutageKind.DROP:
            return Verdict(refusal(503), {}, Fault.DROP_BEFORE, "outage")
        tells = self._faults.outage_tells_wait
        headers = self._wait(self._faults.retry_after_s, wall_s) if tells else {}
        return Verdict(refusal(503), headers, None, "outage")

    def _serve(
        self, call: Call, body: bytes, *, to: Route, user: str, caller: Caller, wall_s: float
    ) -> Verdict:
        if to.endpoint == "list":
            fault, delay_s = self.plan.pick(method="LIST", sync_id=user)
        else:
            fault, delay_s = self.plan.pick(method=call.method, sync_id=to.sync_id or "")
        if fault is Fault.REVOKED:
            self._refused.add(caller.token_hash)
        given = self._carry_out(call, body, to=to, user=user, fault=fault)
        if fault is None:
            return Verdict(given, {}, delay_s=delay_s)
        headers = delivery.fault_headers(
            fault, faults=self._faults, path=call.raw_path, wall_s=wall_s
        )
        spoiled = delivery.spoil(given, fault=fault, faults=self._faults)
        return Verdict(spoiled, headers, fault, fault.value, delay_s)

    def _carry_out(
        self, call: Call, body: bytes, *, to: Route, user: str, fault: Fault | None
    ) -> Answer:
        ignores = fault is Fault.IGNORED
        if fault in NOT_ACTED and not ignores:
            return refusal(delivery.status_of(fault, 500) or 500)
        return answer(
            self.syncs,
            to=to,
            user=user,
            body=body,
            content_type=call.headers.get("Content-Type", ""),
            now_s=self._now(),
            ignores=ignores,
        )

    def _wait(self, wait_s: float, wall_s: float) -> delivery.Headers:
        return delivery.wait_headers(wait_s, form=self._faults.retry_after, wall_s=wall_s)

    def _record(
        self, call: Call, verdict: Verdict, *, sync_id: str | None, caller: Caller, wall_s: float
    ) -> None:
        texts: tuple[str, ...] = (
            printable(call.raw_path),
            (call.body or b"").decode("utf-8", "backslashreplace"),
            printable(call.headers.get("User-Agent", "")),
            printable(call.headers.get("Content-Type", "")),
            sync_id or "",
        )
        elsewhere = bool(caller.secret) and any(caller.secret in text for text in texts)
        if elsewhere:
            texts = tuple(map(caller.strip, texts))
        path, body, agent, content_type, name = texts
        self.log.append(
            AuditEntry(
                number=self.log.count + 1,
                at_monotonic_s=call.at_s,
                wall=timestamp(wall_s),
                method=call.method,
                path=path,
                sync_id=None if sync_id is None else name,
                user=caller.user,
                status=delivery.status_of(verdict.fault, verdict.given.status),
                fault=verdict.name,
                acted=verdict.given.acted,
                body=body[:BODY_CHARACTERS] or None,
                in_flight=call.in_flight,
                token_hash=caller.token_hash,
                token_elsewhere=elsewhere,
                had_cookie="Cookie" in call.headers,
                user_agent=agent or None,
                content_type=content_type or None,
                header_names=tuple(header.lower() for header in call.headers),
            )
        )
