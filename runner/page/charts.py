"""Charts as data: for the page's script, and as lines that any reader shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from runner.page.course import BAD, ENDED, GOOD, RESYNCS, UNDER_WAY, Course
from runner.page.words import ceiling, duration

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 22, 18, 24
# To the left there is room for 1,000,000.
_SMOOTH = 120
_POINTS = 300
_SAMPLES = 12
_TICKS_S = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800),
)
FOR_ALL = frozenset(
    {"throttled", "outage", "pause", "health", "window", "start", "gate", "approve", "soak"}
)
"""Waits in which nobody moves; in others some rows wait, and the rest goes on."""


class Series(msgspec.Struct, frozen=True):
    """One line of a chart."""

    name: str
    tone: str
    """A color of the page: ``good``, ``bad``, ``line`` or ``limit``."""
    values: list[float | None]
    area: bool = False
    steps: bool = False


class Chart(msgspec.Struct, frozen=True):
    """One picture over time, and what there is to say about it."""

    id: str
    title: str
    unit: str
    note: str
    series: list[Series]
    whole: bool = True
    """Whether values are whole numbers."""

    @property
    def top(self) -> float:
        """The largest value in it."""
        return max((v for s in self.series for v in s.values if v is not None), default=0.0)


class Band(msgspec.Struct, frozen=True):
    """A time in which nobody moved."""

    since_s: float
    until_s: float
    reason: str


class Mark(msgspec.Struct, frozen=True):
    """A moment with a name: a session or a wave began."""

    at_s: float
    label: str


def charts_of(
    course: Course, *, concurrency: int, budget: float | None, live: bool = False
) -> list[Chart]:
    """Return the charts of a run; none of a run in which no row ended.

    Of a run that is *live*, what is not on record yet is left out.
    """
    time = course.time
    ended = time.counts(ENDED)
    if not sum(ended):
        return []
    good, bad = _running(time.counts(GOOD)), _running(time.counts(BAD))
    charts = [
        Chart(
            "progress",
            "Progress",
            "rows",
            "Rows that ended, as they ended last.",
            [Series("succeeded", "good", good, area=True), Series("failed", "bad", bad)],
        ),
        Chart(
            "rate",
            "Pace",
            "rows a second",
            "Rows that ended in a second.",
            [Series("rows a second", "line", _rates(ended, course), area=True)],
            whole=False,
        ),
        Chart(
            "under-way",
            "Under way",
            "rows",
            "Rows taken up and not yet ended or accepted, every wait of theirs included, and how "
            "many requests were allowed in flight: set, or narrowed when the API asked for it. How "
            "it widens again is not on record.",
            [
                Series("rows under way", "line", _under_way(course, live=live), area=True),
                Series("allowed in flight", "limit", _window(course, concurrency), steps=True),
            ],
        ),
    ]
    if course.resyncs:
        series = [Series("re-syncs", "line", _rounded(time.levels(RESYNCS)), area=True)]
        steps = _stepped(course, budget, course.happenings.budgets)
        if any(step is not None for step in steps):
            series.append(Series("budget", "limit", steps, steps=True))
        note = "Rows accepted whose re-sync was followed."
        charts.append(Chart("resyncs", "Re-syncs in flight", "re-syncs", note, series))
    return charts


def bands_of(course: Course) -> list[Band]:
    """Return the waits of everybody, to be shaded."""
    return [
        Band(round(h.since_s, 3), round(h.until_s, 3), h.reason)
        for h in course.happenings.holds
        if h.reason in FOR_ALL
    ]


def marks_of(course: Course) -> list[Mark]:
    """Return the moments at which sessions and waves began, but for the very first."""
    retry = [a.run_id != b.run_id for a, b in itertools.pairwise(course.stretches)]
    begun = [
        Mark(round(s.at_s, 3), "retry" if is_retry else "resumed")
        for s, is_retry in zip(course.stretches[1:], retry, strict=True)
    ]
    waves = course.happenings.waves[1:] if len(course.happenings.waves) <= _SAMPLES else []
    begun = begun[-_SAMPLES:] + [Mark(round(w.at_s, 3), f"wave {w.name}") for w in waves]
    return sorted(begun, key=lambda mark: mark.at_s)


def drawn(chart: Chart, course: Course) -> dict[str, Any]:
    """Return *chart* as lines and places, for a picture that needs no script."""
    end_s = _end(course)
    most, step = ceiling(chart.top)
    across, up = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x(at_s: float) -> float:
        return round(_LEFT + across * min(1.0, at_s / end_s), 1)

    def y(value: float) -> float:
        return round(_TOP + up * (1 - value / most), 1)

    width_s = course.time.width_s
    lines = []
    for series in chart.series:
        points = [
            (x((bucket + (0 if series.steps else 0.5)) * width_s), y(value))
            for bucket, value in _thinned(series.values)
            if value is not None
        ]
        if series.steps:
            points = list(_corners(points))
        if points and series.values[-1] is not None:
            points.append((x(end_s), points[-1][1]))
        path = " ".join(f"{a:g},{b:g}" for a, b in points)
        area = ""
        if series.area and points:
            area = f"{points[0][0]:g},{y(0):g} {path} {points[-1][0]:g},{y(0):g}"
        lines.append({"tone": series.tone, "path": path, "area": area})
    bands, free = [], 0.0
    for band in bands_of(course):
        left, right = x(band.since_s), x(band.until_s)
        # A name is left out where it would stand on the one before it.
        middle, half = (left + right) / 2, 3.5 * len(band.reason)
        label = middle - half >= free
        free = middle + half + 6 if label else free
        bands.append(
            {
                "x": left,
                "width": max(1.0, round(right - left, 1)),
                "reason": band.reason,
                "label": label,
            }
        )
    return {
        "lines": lines,
        "bands": bands,
        "marks": _placed([(x(mark.at_s), mark.label) for mark in marks_of(course)]),
        "across": [(x(at), _tick(at)) for at in _ticks(end_s)],
        "up": [(y(n * step), _number(n * step)) for n in range(round(most / step) + 1)],
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "floor": y(0),
        "ceiling": y(most),
    }


def sampled(chart: Chart, course: Course) -> list[tuple[str, str, list[str]]]:
    """Return a dozen moments of *chart*: time at work, time on the wall, and each value."""
    moments = list(course.moments())
    last = course.time.buckets - 1
    chosen = sorted({round(n * last / (_SAMPLES - 1)) for n in range(_SAMPLES)})
    return [
        (
            duration(bucket * course.time.width_s),
            moments[bucket] if bucket < len(moments) else "",
            [_number(s.values[bucket] or 0) for s in chart.series],
        )
        for bucket in chosen
    ]


def _placed(marks: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    """Put each label to the right of its line, or to the left where the picture ends.

    One that would stand on the one before it is left out.
    """
    found, free = [], 0.0
    for at, label in marks:
        wide = 7.0 * len(label) + 6
        begin = at - wide if at + wide > WIDTH - _RIGHT else at
        shown = begin >= free
        free = begin + wide if shown else free
        found.append({"x": at, "text": begin + 3, "label": label if shown else ""})
    return found


def _end(course: Course) -> float:
    return max(course.time.buckets * course.time.width_s, 1e-6)


def _running(counts: Sequence[int]) -> list[float | None]:
    return list(itertools.accumulate(counts))


def _rates(ended: Sequence[int], course: Course) -> list[float | None]:
    """Return the pace at each bucket, over as many as keep it from flickering."""
    span = max(1, -(-len(ended) // _SMOOTH))
    width_s = course.time.width_s
    found: list[float | None] = []
    for bucket in range(len(ended)):
        begin = max(0, bucket - span // 2)
        part = ended[begin : begin + span]
        found.append(_short(sum(part) / (len(part) * width_s)))
    return found


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [_short(value) for value in values]


def _short(value: float) -> float:
    return round(value) if value >= 100 else round(value, 2)


def _under_way(course: Course, *, live: bool) -> list[float | None]:
    found = _rounded(course.time.levels(UNDER_WAY))
    # A row is on record once it has ended or is accepted.
    cut = int(course.longest_s / course.time.width_s) + 2 if live else 0
    known = max(0, len(found) - cut)
    return [*found[:known], *[None] * (len(found) - known)]


def _window(course: Course, concurrency: int) -> list[float | None]:
    return _stepped(course, float(concurrency), course.happenings.windows)


def _stepped(
    course: Course, first: float | None, changes: Sequence[tuple[float, float | None]]
) -> list[float | None]:
    """Return *first*, and from each of *changes* on its value, for every bucket."""
    values: list[float | None] = []
    left, now = sorted(changes, key=lambda change: change[0]), first
    place = 0
    for bucket in range(course.time.buckets):
        while place < len(left) and left[place][0] < (bucket + 1) * course.time.width_s:
            now = left[place][1]
            place += 1
        values.append(now)
    return values


def _thinned(values: Sequence[float | None]) -> Iterator[tuple[int, float | None]]:
    every = max(1, -(-len(values) // _POINTS))
    return ((bucket, values[bucket]) for bucket in range(0, len(values), every))


def _corners(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    height = None
    for x, y in points:
        if height is None:
            yield x, y
        elif y != height:
            yield x, height
            yield x, y
        height = y


def _ticks(end_s: float) -> list[float]:
    step = next((s for s in _TICKS_S if end_s / s <= 7), end_s)
    return [n * step for n in range(int(end_s / step) + 1)]


def _tick(at_s: float) -> str:
    return "0" if at_s == 0 else duration(at_s)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
