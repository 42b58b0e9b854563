"""Says in plain words in which slices a run goes, and what is asked between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.folder import Manifest
    from runner.forecast import Rounds
    from runner.opening import Opened
    from runner.results import WaveEnded
    from runner.settings import Settings
    from runner.zones import Start

PROOFS = {
    None: "each re-sync is followed until it has ended; other changes until they are accepted",
    "accepted": "accepted: Paragon took the request; whether it is in force is not read",
    "confirmed": "confirmed: each change is read back until it is in force",
    "resynced": "resynced: each change is read back, and each re-sync followed until it has ended",
}
"""What `--until` comes to, in words."""
_STARTS = 4
"""Zones that are named; a run over the whole world has some hundred."""


def slices_of(opened: Opened) -> dict[str, str]:
    """Return what a person should know of the waves of a run before they begin."""
    from runner.slicing import sizes_of

    told = waves_of(opened.settings, sizes_of(opened))
    passed = sum(gate.passed for gate in opened.manifest.gates)
    if "waves" in told and (opened.past_gate is not None or passed):
        behind = passed + (opened.past_gate is not None)
        told["waves"] += f"; goes on with wave {behind + 1}"
        if opened.past_gate is not None:
            why = opened.manifest.gates[-1].why
            told["past gate"] = f"the gate of wave {opened.past_gate} is gone past: {why}"
    return told


def waves_of(settings: Settings, sizes: Sequence[int]) -> dict[str, str]:
    """Return what is to be told of waves of these *sizes*; nothing for a run without waves."""
    from runner.rollout import Gate, Waves

    if settings.waves is None:
        return {}
    if len(sizes) < 2:
        return {"waves": "one: there are too few rows for more, so no gate is judged"}
    rows = ", then ".join(f"{size:,}" for size in sizes)
    short = Waves.parse(settings.waves).falls_short(sum(sizes))
    rest = f"; the last one is what {settings.waves} leaves" if short else ""
    gates = [f"{Gate.parse(settings.gates)} behind each wave but the last"]
    if settings.soak_s:
        from runner.cli.screen import duration

        gates.append(f"judged {duration(settings.soak_s)} after its last row has ended")
    if settings.approve:
        gates.append("each to be approved by a person")
    return {
        "waves": f"{rows} rows, each proved before the next{rest}",
        "gates": ", ".join(gates),
    }


def budget_of(rounds: Rounds | None, settings: Settings) -> dict[str, str]:
    """Return how many re-syncs may run at once, and how long that makes it take."""
    from runner.cli.screen import duration

    per = [
        f"at most {n} a {key}" for key, _, n in (s.partition("=") for s in settings.max_resyncs_per)
    ]
    follows = settings.until in {"accepted", "confirmed"}
    if rounds is None and not per:
        not_seen = "; none is followed to its end" if follows else ""
        return {"budget": f"none: any number of re-syncs may be unfinished at once{not_seen}"}
    told = per
    if rounds is not None:
        told.insert(0, f"{rounds.at_once:,} unfinished re-syncs at once")
        if rounds.count > 1:
            told.append(f"{rounds.count:,} rounds")
            if rounds.all_s is None:
                told.append("each as long as the slowest of its syncs takes")
        if rounds.all_s is not None and rounds.each_s is not None:
            each = duration(rounds.each_s)
            told.append(f"about {duration(rounds.all_s)} if each takes {each}, as lately")
    if follows:
        told.append("each followed to its end for that")
    return {"budget": ", ".join(told)}


def starts_of(manifest: Manifest, *, planned: bool = False) -> dict[str, str]:
    """Return when each zone starts, as far as a person can take in; nothing without ``--at``.

    Of a run that is only *planned* that is when it would start if it were applied now.
    """
    if not manifest.starts:
        return {}
    first, last = manifest.starts[:_STARTS], manifest.starts[-1]
    told = [_start(start) for start in first]
    if more := len(manifest.starts) - len(first):
        told.append(f"and {more:,} zones more, the last of them {_start(last)}")
    waits = "workers wait for that, whatever becomes of this process"
    if manifest.settings.engine == "local":
        waits = "this process waits for that, so leave it running"
    told.append("counted anew when the plan is applied" if planned else waits)
    return {"starts": "; ".join(told)}


def _start(start: Start) -> str:
    rows = "1 row" if start.rows == 1 else f"{start.rows:,} rows"
    return f"{start.zone} at {start.time} of {start.date}, {start.at} ({rows})"


def wave_ends(waves: Sequence[WaveEnded]) -> str:
    """Return what became of the waves of a run."""
    told = []
    for wave in waves:
        rows = "1 row" if wave.rows == 1 else f"{wave.rows:,} rows"
        verdict = f": {wave.verdict}" if wave.verdict else ""
        by = f" (passed by {wave.passed_by})" if wave.passed_by else ""
        told.append(f"{rows}{verdict}{by}")
    return ", then ".join(told)
