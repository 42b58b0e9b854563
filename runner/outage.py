"""When a server is down, the run waits: a shared retry budget, and a breaker with probes.

Pure arithmetic on a clock that comes in as an argument. The budget follows
Finagle's and gRPC's (retries are a share of clean successes, and below half
they are rationed), but makes a row wait where those would give it up. The
breaker counts what only a server can cause: each row's first failure, never a
row that fails again while others succeed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

_DEPOSIT = 0.1
_RESERVE_INTERVAL_S = 1.0
_IN_A_ROW = 10
_SHARE = 0.5
_SHARE_OF = 20
_LOOK_BACK_S = 30.0
_SEEN = 1000
_STARVED_S = 60.0
_PAUSES_S = (5.0, 10.0, 20.0, 40.0, 60.0)
_SPREAD = 0.2
_SUCCESSES_TO_CLOSE = 3
_OUTAGES_KEPT = 100
"""More of them than a row can have lived through."""


class RetryBudget:
    """What the whole run may spend on retries, counted in attempts."""

    def __init__(self, *, concurrency: int) -> None:
        self.capacity = self.balance = _capacity(concurrency)
        self._next_reserve = float("-inf")
        self.low_since: float | None = None
        """Since when only the reserve may be spent."""

    def set_concurrency(self, concurrency: int) -> None:
        """Let the budget be that of so many requests in flight; what was spent stays spent."""
        spent = self.capacity - self.balance
        self.capacity = _capacity(concurrency)
        self.balance = max(0.0, self.capacity - spent)

    def clean_success(self, now: float) -> None:
        """A row succeeded on its first attempt: a tenth of a retry is earned."""
        self._add(_DEPOSIT, now)

    def pay_back(self, now: float) -> None:
        """A retry succeeded, and gives back what it took."""
        self._add(1.0, now)

    def take(self, now: float) -> float:
        """Pay for one retry; return for how many seconds it has to wait.

        In good times 0. With half of the budget gone only one retry a second
        may leave, each at its own moment.
        """
        if self.balance > self.capacity / 2:
            self.balance -= 1
            return 0.0
        if self.low_since is None:
            self.low_since = now
        moment = max(now, self._next_reserve)
        self._next_reserve = moment + _RESERVE_INTERVAL_S
        return moment - now

    def starved(self, now: float) -> bool:
        """Tell whether retries have been rationed for a whole minute."""
        return self.low_since is not None and now - self.low_since >= _STARVED_S

    def _add(self, amount: float, now: float) -> None:
        self.balance = min(self.capacity, self.balance + amount)
        if self.balance > self.capacity / 2:
            self.low_since = None
            self._next_reserve = min(self._next_reserve, now)


def _capacity(concurrency: int) -> float:
    return float(max(50, 2 * concurrency))


class Breaker:
    """Knows whether the server is down, and when to ask it again."""

    def __init__(self, *, chance: Callable[[], float]) -> None:
        """*chance* gives numbers from 0 to 1; pauses are spread by a fifth with it."""
        self._chance = chance
        self._in_a_row = 0
        self._seen: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._probes = 0
        self._good_probes = 0
        self._found_down = False
        self.opened_at: float | None = None
        """Since when the server counts as down; None while it does not."""
        self.outages = 0
        """How often a probe has shown that it was down."""
        self._proved = False
        self._down_from = float("-inf")
        self._was_down: deque[tuple[float, float]] = deque(maxlen=_OUTAGES_KEPT)
        self.next_probe_at = 0.0
        self.last_success_at = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether the server counts as down."""
        return self.opened_at is not None

    @property
    def ever_succeeded(self) -> bool:
        """Whether the server has answered at all."""
        return self.last_success_at > float("-inf")

    def succeeded(self, now: float) -> None:
        """Note an answer that a server which is down could not give."""
        self._in_a_row = 0
        self.last_success_at = now
        self._note(now, failed=False)

    def failed(self, now: float) -> bool:
        """Note the first failure of a row; tell whether this opened the breaker."""
        self._in_a_row += 1
        self._note(now, failed=True)
        if self.is_open:
            return False
        seen = len(self._seen)
        if self._in_a_row >= _IN_A_ROW or (seen >= _SHARE_OF and self._failures >= _SHARE * seen):
            self.open(now)
            return True
        return False

    def open(self, now: float, *, ask_at_once: bool = False) -> None:
        """Count the server as down; the first probe is due after a pause.

        With *ask_at_once* it is only suspected: it counts as found down once a
        probe has failed.
        """
        self.opened_at = now
        self._found_down = not ask_at_once
        self._proved = False
        self._down_from = self.last_success_at
        self._probes = 0
        self._good_probes = 0
        self.next_probe_at = now if ask_at_once else now + self._pause()

    def probed(self, now: float, *, answered: bool) -> bool:
        """Note how a probe ended; tell whether the server is up again.

        Three good ones in a row close the breaker; a bad one, or one that was
        lost, makes the next pause longer.
        """
        if not answered:
            self._good_probes = 0
            self._probes += 1
            self.next_probe_at = now + self._pause()
            self.outages += not self._proved
            self._found_down = self._proved = True
            return False
        self._good_probes += 1
        self.next_probe_at = now
        if self._good_probes < _SUCCESSES_TO_CLOSE:
            return False
        if self._found_down:
            self._was_down.append((self._down_from, now))
        self.opened_at = None
        self._in_a_row = 0
        self._seen.clear()
        self._failures = 0
        self.last_success_at = now
        return True

    def was_down(self, moment: float) -> bool:
        """Tell whether a failure at *moment* was the server's, which was found down then.

        The time since its last success counts, for that is when it went down.
        """
        if self.is_open and self._found_down and moment >= self._down_from:
            return True
        return any(start <= moment <= end for start, end in self._was_down)

    def _pause(self) -> float:
        pause = _PAUSES_S[min(self._probes, len(_PAUSES_S) - 1)]
        return pause * (1 - _SPREAD + 2 * _SPREAD * self._chance())

    def _note(self, now: float, *, failed: bool) -> None:
        seen = self._seen
        seen.append((now, failed))
        self._failures += failed
        while now - seen[0][0] > _LOOK_BACK_S or len(seen) > _SEEN:
            self._failures -= seen.popleft()[1]
