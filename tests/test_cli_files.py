"""What a run leaves behind: names, fields and their order, permissions, and that it all adds up."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from runner.simulator import Faults, SyncRecord
from tests.commands import NEW, Command, Stage, journal, table

RUN = "mixed"
GONE = "no-such-sync"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HEADER = ("sync_id", "user_id", "credential_id", "expected_credential_id", "note")
KINDS = ("updated", "unchanged", "duplicate", "invalid", "conflicted", "rejected", "exhausted")
EXPECTED = dict(zip(KINDS, (9, 1, 1, 1, 1, 1, 1), strict=True))
LATER_KINDS = ("unconfirmed", "errored", "irreversible")
"""Outcomes that come of proofs and rollbacks; none of them here."""
OWN_COLUMNS = tuple(
    f"syncshift_{name}"
    for name in [
        "row",
        "line",
        "outcome",
        "proof",
        "sent",
        "error_class",
        "error",
        "http_status",
        "attempts",
    ]
)


class Mixed(NamedTuple):
    """A run in which rows end in every way, made under a umask that forbids nothing."""

    stage: Stage
    command: Command
    rows: list[tuple[str, ...]]
    before: dict[str, SyncRecord]

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.stage.folder(RUN)

    def read(self, name: str) -> Any:
        """Return one of its JSON files."""
        return json.loads((self.folder / name).read_bytes())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    """One run for all these tests: each looks at another side of it."""
    with Stage(tmp_path_factory.mktemp("mixed")) as stage:
        syncs = stage.syncs(12)
        already, moved, poisoned, *good = syncs
        stage.simulator.faults = Faults(poison=frozenset({poisoned.id}))
        rows: list[tuple[str, ...]] = [
            (already.id, already.user, already.credential_id.upper(), "", "already so"),
            (moved.id, moved.user, NEW, NEW.replace("0", "1"), "not as expected"),
            (poisoned.id, poisoned.user, NEW, "", "breaks the server"),
            (good[0].id, good[0].user, NEW, good[0].credential_id, 'a "quoted"\nnote'),
            (good[0].id, good[0].user, NEW, good[0].credential_id, "the same again"),
            (GONE, "user-00001", NEW, "", "=HYPERLINK(0)"),
            ("bad", "user-00001", "not a UUID", "", "invalid"),
            *((sync.id, sync.user, NEW, "", "ü\u2028") for sync in good[1:]),
        ]
        path = stage.write("mixed.csv", [HEADER, *rows])
        command = stage.run(
            "run",
            "migrate-credentials",
            path,
            *("--run-id", RUN, "--yes", "--json", "--skip-invalid"),
            *("--max-failures", "100%", "--max-attempts", "2"),
            before="umask 000",
        )
        yield Mixed(stage, command, rows, {sync.id: sync for sync in syncs})


def test_every_kind_of_outcome_is_there(mixed: Mixed) -> None:
    """A run whose rows all ended, some of them badly, exits with 3 and counts each row once."""
    counts = mixed.read("summary.json")["counts"]

    assert mixed.command.code == 3, mixed.command.err
    assert counts == {**EXPECTED, **dict.fromkeys(LATER_KINDS, 0), "unprocessed": 0}


def test_json_is_the_summary_and_nothing_else(mixed: Mixed) -> None:
    """With --json standard output is the content of summary.json, and all else is elsewhere."""
    assert mixed.command.json() == mixed.read("summary.json")
    assert "rows to carry" in mixed.command.err or "to carry" in mixed.command.err


def test_the_summary_has_its_fields_in_order(mixed: Mixed) -> None:
    """summary.json has the fields of the contract, and they agree with each other."""
    summary = mixed.read("summary.json")

    assert list(summary) == [
        "run_id",
        "job",
        "state",
        "verdict",
        "exit_code",
        "started",
        "ended",
        "rows",
        "counts",
        "error_classes",
        "attempts",
        "rate",
        "latency_ms",
        "waits",
        "resyncs",
        "limits",
        "files",
    ]
    assert (summary["run_id"], summary["job"]) == (RUN, "migrate-credentials")
    assert (summary["state"], summary["verdict"], summary["exit_code"]) == ("finished", "failed", 3)
    assert summary["rows"] == sum(summary["counts"].values()) == len(mixed.rows)
    assert summary["attempts"] == mixed.stage.patches() == 9
    assert summary["resyncs"] == 9
    assert list(summary["counts"]) == [*KINDS, *LATER_KINDS, "unprocessed"]
    assert summary["error_classes"] == {
        "invalid": 1,
        "conflict": 1,
        "not_found": 1,
        "transient": 1,
    }
    assert MOMENT.fullmatch(summary["started"])
    assert MOMENT.fullmatch(summary["ended"])
    assert summary["started"] <= summary["ended"]


def test_the_summary_names_the_files_as_they_are(mixed: Mixed) -> None:
    """Each result file is named with its rows and its SHA-256."""
    for name, told in mixed.read("summary.json")["files"].items():
        data = (mixed.folder / name).read_bytes()

        assert told["sha256"] == hashlib.sha256(data).hexdigest()
        assert told["rows"] == len(table(mixed.folder / name))


def test_the_three_files_together_are_the_input(mixed: Mixed) -> None:
    """Joined and sorted by row, the result files equal the input, cell for cell."""
    names = ("succeeded.csv", "failed.csv", "unprocessed.csv")
    rows = [row for name in names for row in table(mixed.folder / name)]
    rows.sort(key=lambda row: int(row["syncshift_row"]))

    assert [tuple(row[name] for name in HEADER) for row in rows] == mixed.rows
    assert [int(row["syncshift_row"]) for row in rows] == list(range(1, len(mixed.rows) + 1))
    for name in names:
        header = (mixed.folder / name).read_text(encoding="utf-8").splitlines()[0]
        assert header == ",".join((*HEADER, *OWN_COLUMNS))


def test_each_file_holds_the_rows_that_belong_there(mixed: Mixed) -> None:
    """Succeeded and failed rows are parted by their outcome, in input order."""
    succeeded, failed = (table(mixed.folder / f"{name}.csv") for name in ("succeeded", "failed"))

    assert [row["syncshift_outcome"] for row in succeeded] == [
        "unchanged",
        "updated",
        "duplicate",
        *["updated"] * 8,
    ]
    assert [row["syncshift_outcome"] for row in failed] == [
        "conflicted",
        "exhausted",
        "rejected",
        "invalid",
    ]
    told = {row["syncshift_outcome"]: row for row in (*succeeded, *failed)}
    sent = {kind: row["syncshift_sent"] for kind, row in told.items()}
    assert sent == {kind: "true" if kind == "updated" else "false" for kind in KINDS}
    assert told["rejected"]["syncshift_http_status"] == "404"
    assert told["updated"]["syncshift_proof"] == "accepted"
    assert "line 4" not in told["conflicted"]["syncshift_error"]


def test_the_lines_of_the_undo_log(mixed: Mixed) -> None:
    """Each PATCH has one intent, with what the sync held before, in the fields of the contract."""
    lines = journal(mixed.folder / "undo.jsonl")

    assert {line["sync_id"] for line in lines} == {
        entry.sync_id for entry in mixed.stage.asked("PATCH")
    }
    assert len(lines) == 9
    for line in lines:
        was = mixed.before[line["sync_id"]]
        assert list(line) == (
            [
                "v",
                "row",
                "line",
                "sync_id",
                "user_id",
                "before",
                "seen",
                "desired",
                "timestamp",
                "seq",
                "crc",
            ]
        )
        assert line["before"] == {"credential_id": was.credential_id}
        assert line["desired"] == {"credential_id": NEW}
        assert line["seen"] == {
            "status": was.status,
            "total_records": was.total_records,
            "last_synced_at": was.last_synced_at,
        }
        assert MOMENT.fullmatch(line["timestamp"])


def test_the_lines_of_the_report(mixed: Mixed) -> None:
    """Each row has one outcome, in the fields of the contract, and says what it is."""
    lines = journal(mixed.folder / "report.jsonl")

    assert sorted(line["row"] for line in lines) == list(range(1, len(mixed.rows) + 1))
    for line in lines:
        assert list(line) == [
            "v",
            "event",
            "level",
            "timestamp",
            "row",
            "line",
            "sync_id",
            "user_id",
            "outcome",
            "proof",
            "sent",
            "before",
            "desired",
            "http_status",
            "error_class",
            "error",
            "attempts",
            "elapsed_ms",
            "request_id",
            "seq",
            "crc",
        ]
        assert (line["v"], line["event"], line["level"]) == (1, "change.settled", "info")
        assert MOMENT.fullmatch(line["timestamp"])
        assert line["proof"] == ("accepted" if line["outcome"] == "updated" else None)
        assert (line["attempts"] > 0) == line["sent"] == (line["outcome"] == "updated")
        assert re.fullmatch(r"sim-\d+", line["request_id"] or "sim-0")


def test_p2_each_failed_row_tells_its_story(mixed: Mixed) -> None:
    """Whatever did not succeed says of which class it is, why, and what the server answered."""
    failed = {
        line["outcome"]: line
        for line in journal(mixed.folder / "report.jsonl")
        if line["error_class"]
    }

    assert set(failed) == {"invalid", "conflicted", "rejected", "exhausted"}
    assert all(line["error"] for line in failed.values())
    assert "credential_id" in failed["invalid"]["error"]
    assert mixed.rows[1][3] in failed["conflicted"]["error"]
    assert (failed["rejected"]["http_status"], failed["exhausted"]["http_status"]) == (404, 500)
    assert failed["rejected"]["request_id"]


def test_the_lines_of_the_events(mixed: Mixed) -> None:
    """What the run did begins with its being opened and ends with its being closed."""
    lines = journal(mixed.folder / "events.jsonl")

    assert lines[0]["event"] == "run.opened"
    assert lines[-1]["event"] == "run.closed"
    assert all(list(line)[:4] == ["v", "event", "level", "timestamp"] for line in lines)


def test_the_manifest(mixed: Mixed) -> None:
    """run.json says what was run, on what, with which settings, and how it ended."""
    manifest = mixed.read("run.json")
    data = (mixed.folder / "input.csv").read_bytes()

    assert data == (mixed.stage.home / "mixed.csv").read_bytes()
    assert manifest["input"] == {
        "name": str(mixed.stage.home / "mixed.csv"),
        "file": "input.csv",
        "format": "csv",
        "compression": None,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert (manifest["run_id"], manifest["job"]) == (RUN, "migrate-credentials")
    assert (manifest["state"], manifest["exit_code"]) == ("finished", 3)
    assert (manifest["rows"], manifest["users"]) == (len(mixed.rows), 4)
    assert manifest["parent"] is None
    assert manifest["settings"]["base_url"] == mixed.stage.base_url
    assert manifest["settings"]["max_attempts"] == 2
    assert not any("key" in name or "token" in name for name in manifest["settings"])
    assert {"syncshift", "python", "aiohttp"} <= set(manifest["versions"])
    assert manifest["created"] <= manifest["started"] <= manifest["ended"]


def test_x7_all_files_are_private(mixed: Mixed) -> None:
    """Under a umask that forbids nothing files are 0600, folders 0700; runs never get into git."""
    found = {
        path.relative_to(mixed.stage.runs).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in mixed.stage.runs.rglob("*")
    }
    folders = {name for name in found if (mixed.stage.runs / name).is_dir()}

    assert stat.S_IMODE(mixed.stage.runs.stat().st_mode) == 0o700
    assert {name: oct(found[name]) for name in folders} == dict.fromkeys(folders, "0o700")
    assert {oct(found[name]) for name in set(found) - folders} == {"0o600"}
    assert set(found) - folders == {
        ".gitignore",
        *(f"{RUN}/{name}.jsonl" for name in ("undo", "report", "events")),
        *(f"{RUN}/{name}.csv" for name in ("input", "invalid")),
        *(f"{RUN}/{name}.csv" for name in ("succeeded", "failed", "unprocessed")),
        f"{RUN}/run.json",
        f"{RUN}/summary.json",
        f"{RUN}/report.html",
    }
    assert (mixed.stage.runs / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_x6_cells_of_others_stay_as_they_are_and_ours_are_inert(mixed: Mixed) -> None:
    """An input's own cell is never changed; the same text in a column of ours would be quoted."""
    failed = table(mixed.folder / "failed.csv")

    assert "=HYPERLINK(0)" in {row["note"] for row in failed}
    assert not any(row["syncshift_error"].startswith(tuple("=+-@")) for row in failed)


def test_p1_a_report_is_the_same_byte_for_byte(mixed: Mixed) -> None:
    """Without summary and result files `report` makes them anew, byte for byte, from the record."""
    names = ("succeeded.csv", "failed.csv", "unprocessed.csv", "summary.json")
    before = {name: (mixed.folder / name).read_bytes() for name in names}
    for name in names:
        (mixed.folder / name).unlink()

    command = mixed.stage.run("report", RUN, "--json")

    assert command.code == 0
    assert {name: (mixed.folder / name).read_bytes() for name in names} == before
    assert command.json() == json.loads(before["summary.json"])


def test_result_files_can_be_fed_back(mixed: Mixed) -> None:
    """failed.csv is an input: its own columns are read, those that a run added are dropped."""
    mixed.stage.simulator.faults = Faults()
    command = mixed.stage.run(
        "run",
        "migrate-credentials",
        mixed.folder / "failed.csv",
        *("--yes", "--json", "--skip-invalid", "--max-failures", "100%", "--max-attempts", "1"),
        *("--run-id", "again"),
    )

    assert command.code == 3, command.err
    assert command.json()["rows"] == 4
    header = (mixed.stage.folder("again") / "failed.csv").read_text(encoding="utf-8")
    assert header.splitlines()[0] == ",".join((*HEADER, *OWN_COLUMNS))
