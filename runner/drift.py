"""What has become different between one look at a sync and a later one, in words."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runner.model import Change, ErrorClass, Finding, FindingKind, Intent, State

_GOES_ON = frozenset({FindingKind.CHANGE, FindingKind.UNCHANGED})


def untold(change: Change, state: State) -> str | None:
    """Return why nobody can say how *state* compares with *change*, if the API left a field out."""
    wanted = dict.fromkeys((*(change.expected or {}), *change.desired))
    missing = [name for name in wanted if name not in state]
    if not missing:
        return None
    return f"the API does not tell {' and '.join(missing)} of this sync"


def unexpected(change: Change, state: State) -> str | None:
    """Return how *state* differs from what *change* expects, where it is told."""
    for name, wanted in (change.expected or {}).items():
        if name in state and state[name] != wanted:
            return f"{name} is {state[name]}; expected {wanted}"
    return None


def moved_since(planned: Finding, state: State) -> tuple[ErrorClass, str] | None:
    """Return why a row that was *planned* may not be changed now that its sync is in *state*."""
    if planned.finding not in _GOES_ON:
        unknown = planned.finding is FindingKind.UNKNOWN
        return (
            ErrorClass.UNKNOWN_STATE if unknown else ErrorClass.CONFLICT,
            f"was {planned.finding} when it was planned: {planned.error}; plan again",
        )
    for name, was in (planned.before or {}).items():
        now = state.get(name)
        if now is None:
            why = f"the API does not tell {name} of this sync any more; it was {was} when planned"
            return ErrorClass.UNKNOWN_STATE, why
        if now != was:
            why = f"{name} was {was} when it was planned, and is now {now}"
            return ErrorClass.CONFLICT, why
    return None


def differs(desired: Mapping[str, str], state: State) -> str | None:
    """Return what *state* shows in place of *desired*, where it is told."""
    found = [
        f"{name} is {state[name]}, not {wanted}"
        for name, wanted in desired.items()
        if name in state and state[name] != wanted
    ]
    return "; ".join(found) or None


def moved_in_doubt(intent: Intent, state: State) -> str | None:
    """Say how a row in doubt differs from both its before-image and its target, if it does."""
    before = intent.before or {}
    for name, wanted in intent.desired.items():
        now = state.get(name)
        if now is not None and now not in {wanted, before.get(name)}:
            was = before.get(name, "not told")
            return f"{name} was {was} and was to become {wanted}, but is now {now}"
    return None


def narrowed_to(change: Change, state: State) -> Change:
    """Return *change* without the fields that *state* shows to be so already."""
    desired = {name: v for name, v in change.desired.items() if state.get(name) != v}
    if len(desired) == len(change.desired):
        return change
    return msgspec.structs.replace(change, desired=desired)
