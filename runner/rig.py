"""Puts together what carries single rows: where they end, what happens to them, who follows them.

Whoever carries rows takes the same parts: a run alone, and each worker of one that has several.
"""

from __future__ import annotations

from collections.abc import Callable

from runner.attempt import Clocks
from runner.budget import Budget
from runner.exchange import Exchanger
from runner.following import Follower
from runner.model import OutcomeKind
from runner.opening import Opened
from runner.pipeline import Sink, Stop
from runner.record import Record
from runner.rollout import FailureLimit, Suspicions
from runner.steps import Update
from runner.turnstile import Turnstile


def limit_of(opened: Opened) -> FailureLimit:
    """Return the run's failure limit. Raises `SettingsError`."""
    return FailureLimit.parse(opened.settings.max_failures)


def pardoned_in(opened: Opened) -> frozenset[OutcomeKind]:
    """Return how rows of the run may end, besides well, without counting as failed."""
    # Whoever changed a sync since has the last word; that is no sign of a fault.
    return frozenset({OutcomeKind.CONFLICTED} if opened.manifest.undoes else ())


def sink_of(
    opened: Opened,
    record: Record,
    stop: Stop,
    limit: FailureLimit,
    is_settled: Callable[[int], bool],
) -> Sink:
    """Return where the rows end."""
    return Sink(
        settle=record.settle,
        commits=record.committer,
        stop=stop,
        limit=limit,
        suspicions=Suspicions(users=opened.checked.users),
        duplicates_of=opened.checked.duplicates_of,
        is_settled=is_settled,
        pardoned=pardoned_in(opened),
        strict=opened.settings.strict,
    )


def update_of(
    opened: Opened,
    exchanger: Exchanger,
    record: Record,
    *,
    turnstile: Turnstile,
    clocks: Clocks,
    budgeted: bool,
) -> Update:
    """Return what carries a change as far as the API's acceptance."""
    settings = opened.settings
    return Update(
        job=opened.job,
        exchanger=exchanger,
        turnstile=turnstile,
        record=record,
        reads=not settings.no_read,
        until=settings.until,
        budgeted=budgeted,
        clock=clocks.steady,
        wall_clock=clocks.wall,
    )


def follower_of(
    opened: Opened,
    exchanger: Exchanger,
    record: Record,
    sink: Sink,
    update: Update,
    *,
    turnstile: Turnstile,
    stop: Stop,
    clocks: Clocks,
    budget: Budget | None,
) -> Follower:
    """Return who follows accepted rows until they are proved."""
    settings = opened.settings
    return Follower(
        update,
        job=opened.job,
        exchanger=exchanger,
        turnstile=turnstile,
        record=record,
        sink=sink,
        stop=stop,
        clocks=clocks,
        confirm_timeout_s=settings.confirm_timeout_s,
        resync_timeout_s=settings.resync_timeout_s,
        budget=budget,
    )
