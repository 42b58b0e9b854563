"""Puts a throttle through a scenario, seed after seed, and holds the worst against its limits."""

from __future__ import annotations

import random
from collections.abc import Iterable
from statistics import median

import msgspec

from benchmarks.throttle.passing import Pass, Seen
from benchmarks.throttle.scenarios import MINUTES, STEADY, STEPS, Minute, Steady, Step, many
from benchmarks.throttle.servers import Bucket

_LOOK_S = 5
_NEARLY = 0.9
_CALM = 0.02

Scenario = Steady | Step | Minute
SCENARIOS: tuple[Scenario, ...] = (*STEADY, *STEPS, *MINUTES)


class Found(msgspec.Struct, frozen=True):
    """What one figure of a scenario came to over all seeds, beside its limit."""

    what: str
    worst: float
    mean: float
    limit: float
    unit: str
    at_least: bool = False
    """Whether the limit is the least that is good, not the most."""

    @property
    def held(self) -> bool:
        """Whether even the worst is within the limit."""
        if self.at_least:
            return self.worst >= self.limit
        return self.worst <= self.limit


def measure(scenario: Scenario, seeds: Iterable[int], *, brevity: float = 1.0) -> list[Found]:
    """Return the figures of *scenario*; *brevity* shortens what is measured after a warm-up."""
    if isinstance(scenario, Steady):
        return _steady(scenario, seeds, brevity)
    if isinstance(scenario, Step):
        return _step(scenario, seeds)
    return _minute(scenario, seeds)


def _steady(scenario: Steady, seeds: Iterable[int], brevity: float) -> list[Found]:
    shares, turned_away, medians = [], [], []
    from_s = scenario.warm_up_s
    until_s = from_s + brevity * (scenario.until_s - from_s)
    for seed in seeds:
        server = scenario.make(random.Random(1000 + seed))
        client = Pass(
            server,
            scenario.users,
            seed=seed,
            rtt_s=scenario.rtt_s,
            many_users=scenario.many_users,
        )
        seen = client.run(until_s)
        accepted, away = seen.between(from_s, until_s)
        shares.append(accepted / (until_s - from_s) / server.limit_at(from_s))
        turned_away.append(away / max(1, accepted + away))
        medians.append(median(seen.took_s[-accepted:]))
    found = [
        _found("used", shares, scenario.share, "%", at_least=True),
        _found("429", turned_away, scenario.turned_away, "%"),
    ]
    if scenario.median_s is not None:
        found.append(_found("median", medians, scenario.median_s, "ms"))
    return found


def _step(scenario: Step, seeds: Iterable[int]) -> list[Found]:
    taken, turned_away = [], []
    before, after, at_s = scenario.before_per_s, scenario.after_per_s, scenario.at_s
    for seed in seeds:
        server = Bucket(lambda now: before if now < at_s else after, burst=min(before, after))
        seen = Pass(server, many, seed=seed).run(scenario.until_s)
        if after > before:
            taken.append(_reached_s(seen, after, at_s, scenario.until_s))
        else:
            taken.append(_calm_s(seen, at_s, scenario.until_s))
        turned_away.append(float(seen.between(at_s, at_s + 60)[1]))
    return [
        _found("after", taken, scenario.within_s, "s"),
        _found("429s", turned_away, float(scenario.turned_away), ""),
    ]


def _minute(scenario: Minute, seeds: Iterable[int]) -> list[Found]:
    taken, turned_away = [], []
    answers = 0
    for seed in seeds:
        server = scenario.make(random.Random(1000 + seed))
        seen = Pass(server, many, seed=seed).run(60.0 + _LOOK_S)
        taken.append(_reached_s(seen, server.limit_at(0.0), 0.0, 60.0 + _LOOK_S))
        accepted, away = seen.between(0.0, 60.0)
        turned_away.append(float(away))
        answers = max(answers, accepted + away)
    most = max(scenario.few, scenario.turned_away * answers)
    return [
        _found("after", taken, scenario.reached_s, "s"),
        _found("429s", turned_away, most, ""),
    ]


def _reached_s(seen: Seen, limit: float, from_s: float, until_s: float) -> float:
    """Return after how long, from *from_s* on, nearly all of a limit is used."""
    for began in range(int(from_s), int(until_s) - _LOOK_S):
        if seen.between(began, began + _LOOK_S)[0] >= _NEARLY * limit * _LOOK_S:
            return began - from_s
    return until_s - from_s


def _calm_s(seen: Seen, from_s: float, until_s: float) -> float:
    """Return after how long, from *from_s* on, it is over that many are turned away."""
    for began in range(int(from_s) + 1, int(until_s) - _LOOK_S):
        accepted, away = seen.between(began, began + _LOOK_S)
        if away <= _CALM * (accepted + away):
            return began - from_s
    return until_s - from_s


def _found(
    what: str, values: list[float], limit: float, unit: str, *, at_least: bool = False
) -> Found:
    worst = min(values) if at_least else max(values)
    return Found(what, worst, sum(values) / len(values), limit, unit, at_least)
