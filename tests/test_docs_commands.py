"""Every command that a page of docs/ shows is run against the simulator, and says what is shown."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.record import REPORT
from runner.simulator import Behavior, Fault, SyncRecord
from tests.commands import NEW, ROOT, Stage, until
from tests.sessions import play, session

pytestmark = pytest.mark.no_cover

OLD = "11111111-2222-4333-8444-555555555555"
FRIDAY = ("run", "migrate-credentials", "moves.csv", "--run-id", "friday", "--yes", "--quiet")
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if session(page)]


def moves(stage: Stage, *, rows: int = 24) -> str:
    """Have an input, whose syncs the simulator has, and one of bad rows."""
    shutil.copy(ROOT / "sample_inputs" / "bad-rows.csv", stage.home)
    whole = (ROOT / "sample_inputs" / "migrate-credentials.csv").read_text(encoding="utf-8")
    lines = whole.splitlines()[: rows + 1]
    (stage.home / "moves.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    owners = [(row["sync_id"], row["user_id"]) for row in csv.DictReader(lines)]
    stage.there(stage.simulator.seed_from_rows, owners)
    return "export SYNCSHIFT_RUNS=runs"


def whole_sample(stage: Stage) -> str:
    """Have the whole sample: enough rows that their number is to be typed."""
    return moves(stage, rows=120)


def without_terminal(stage: Stage) -> str:
    """Likewise, in a shell that nobody sits at."""
    return f"{moves(stage)}; exec </dev/null"


def ended(stage: Stage) -> str:
    """Have a run called friday that has ended."""
    before = moves(stage)
    assert stage.run(*FRIDAY).code == 0
    return before


def killed(stage: Stage) -> str:
    """Have a run called friday that was killed on its way."""
    before = moves(stage)
    run = stage.start(*FRIDAY, "--rate", 40)
    report = stage.folder("friday") / REPORT
    until(lambda: report.exists() and report.stat().st_size, "a row has ended")
    run.end()
    return before


def at_work(stage: Stage) -> str:
    """Have a run called friday that is at work, for longer than the page takes."""
    before = moves(stage)
    stage.start(*FRIDAY, "--rate", 1)
    until((stage.folder("friday") / "control.sock").exists, "it takes orders")
    return before


def failed(stage: Stage) -> str:
    """Have a run called friday, of which a row is exhausted twice and one always rejected."""
    good, bad = stage.syncs(2, users=1)
    stage.there(stage.simulator.script, bad.id, "PATCH", [Fault.HTTP_500] * 2)
    rows = [(good.id, good.user, NEW), (bad.id, bad.user, NEW), ("gone", bad.user, NEW)]
    stage.write("moves.csv", [("sync_id", "user_id", "credential_id"), *rows])
    assert stage.run(*FRIDAY, "--max-attempts", 1, "--max-failures", "100%").code == 3
    return "export SYNCSHIFT_RUNS=runs"


def of_users(stage: Stage) -> None:
    """Have syncs of two users, of one integration; one user's are bound to one credential."""
    for number in range(24):
        record = SyncRecord(
            id=f"a11347bd-d510-5489-9068-e5fded55a2{number:02x}",
            user=("org:42", "org:7")[number % 2],
            credential_id=OLD if number % 2 == 0 else NEW,
        )
        stage.there(stage.simulator.add, record)


def credentials(stage: Stage) -> str:
    """Have a user with an old and a new credential, and syncs that use the old one."""
    of_users(stage)
    head = ("user_id", "expected_credential_id", "credential_id")
    stage.write("users.csv", [head, ("org:42", OLD, NEW)])
    return "export SYNCSHIFT_RUNS=runs"


def zones(stage: Stage) -> str:
    """Have a file of users for each zone."""
    of_users(stage)
    stage.write("users-berlin.csv", [("user_id",), ("org:42",), ("org:7",)])
    stage.write("users-new-york.csv", [("user_id",), ("org:7",)])
    return "export SYNCSHIFT_RUNS=runs"


def nightly(stage: Stage) -> str:
    """Have an input whose rows name their time zones."""
    rows = [
        ("72ae36f0-ae74-5fb9-a980-300dc927cb22", "org:42", "1h", "Europe/Berlin"),
        ("49792b3f-7387-51f1-a90f-b3b1b9bdab99", "org:7", "1h", "America/New_York"),
    ]
    stage.write("daily.csv", [("sync_id", "user_id", "frequency", "time_zone"), *rows])
    stage.there(stage.simulator.seed_from_rows, [row[:2] for row in rows])
    return "export SYNCSHIFT_RUNS=runs"


def users(stage: Stage) -> str:
    """Have a file of users, with a credential for each."""
    of_users(stage)
    stage.write("users.csv", [("user_id", "credential_id"), ("org:42", NEW)])
    return "export SYNCSHIFT_RUNS=runs"


def one_sync(stage: Stage) -> str:
    """Have the sync that the page of the doctor reads."""
    stage.there(stage.simulator.seed_from_rows, [("a11347bd-d510-5489-9068-e5fded55a28c", "42")])
    return ""


def beside(stage: Stage) -> str:
    """Install into a folder of the page's own, where Python looks, and ask no index."""
    build = "python -m hatchling build --target wheel --directory ../wheels >/dev/null 2>&1"
    unpack = "python -m zipfile -e wheels/*.whl site"
    return f"export PYTHONPATH={ROOT}:{stage.home}/site\npip() {{ (cd acme; {build}); {unpack}; }}"


PREPARE: dict[str, Callable[[Stage], str]] = {
    "ci.md": without_terminal,
    "control.md": at_work,
    "crashed-run.md": killed,
    "doctor.md": one_sync,
    "events.md": ended,
    "exit-codes.md": without_terminal,
    "frequency-at-night.md": zones,
    "input-file.md": without_terminal,
    "input.md": users,
    "migrate-credentials.md": credentials,
    "outcomes.md": ended,
    "pages.md": ended,
    "quick-start.md": whole_sample,
    "retry.md": failed,
    "rollback.md": ended,
    "settings.md": without_terminal,
    "verify.md": ended,
    "write-a-job.md": beside,
    "zones.md": nightly,
}
"""What has to be there before a page begins; an input, where nothing is said."""

TO_THE_END = {"control.md", "quick-start.md", "rollout.md"}
"""Pages on which re-syncs are followed; elsewhere that would only take time."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_is_real(page: Path, tmp_path: Path) -> None:
    """Each command can be given as it stands, ends as the page has it, and says what is shown."""
    proof = None if page.name in TO_THE_END else "accepted"
    with Stage(tmp_path, behavior=Behavior(resync_s=0.2), until=proof) as stage:
        before = PREPARE.get(page.name, moves)(stage)
        play(stage, session(page), before=before)


def test_no_command_is_shown_that_is_not_run() -> None:
    """A prompt stands in a block that is run; what cannot be run is shown without one."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        others = re.sub(r"^```console\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"^\$ .*", others, re.MULTILINE) == [], page.name
        assert re.findall(r"^```(?:bash|sh|shell)$", others, re.MULTILINE) == [], page.name
