"""Says whether a run may be gone on with as it is."""

from __future__ import annotations

from runner.errors import RunRefused
from runner.folder import Manifest
from runner.judged import standing


def can_be_resumed(manifest: Manifest) -> None:
    """Raise `RunRefused` for a plan that was never applied."""
    if not manifest.is_plan or manifest.applied:
        return
    run_id = manifest.run_id
    if manifest.planned:
        raise RunRefused(
            f"run {run_id} is planned and was never applied; carry it out: syncshift apply {run_id}"
        )
    raise RunRefused(not_whole(manifest))


def not_whole(manifest: Manifest) -> str:
    """Say that the plan of a run was not finished."""
    why = f" ({manifest.reason})" if manifest.reason else ""
    return (
        f"the plan of run {manifest.run_id} is not whole{why}, and a plan is not resumed; plan "
        f"again: syncshift plan {manifest.job} {manifest.input.name}"
    )


def may_go_on(manifest: Manifest, *, past_gate: int | None) -> None:
    """See whether a run may be resumed, *past_gate* being the gate that it is to go past.

    Raises `RunRefused` when it stands before a gate and that is not named, and
    when one is named that is not in the way.
    """
    run_id, gates = manifest.run_id, manifest.gates
    gate = standing(gates)
    if gate is None:
        if past_gate is None:
            return
        judged = [judged for judged in gates if judged.wave == past_gate]
        was = "passed" if judged else "not judged"
        raise RunRefused(
            f"--past-gate {past_gate}: the gate of wave {past_gate} was {was}, and run {run_id} "
            f"stands before no gate; leave it out: syncshift resume {run_id}"
        )
    if past_gate is None:
        how = "failed" if gate.verdict == "fail" else "was inconclusive"
        raise RunRefused(
            f"run {run_id} stands before the gate of wave {gate.wave}, which {how}: {gate.why}. "
            f"To go on nevertheless: syncshift resume {run_id} --past-gate {gate.wave}; to take "
            f"back what was changed: syncshift rollback {run_id}"
        )
    if past_gate != gate.wave:
        raise RunRefused(
            f"--past-gate {past_gate}: run {run_id} stands before the gate of wave {gate.wave}; "
            f"name that one: syncshift resume {run_id} --past-gate {gate.wave}"
        )
