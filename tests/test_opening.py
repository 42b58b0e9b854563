"""A run is on disk before its input is read, and everything is judged before the first request."""

from __future__ import annotations

import gzip
import io
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.authority import token_source
from runner.errors import (
    InputError,
    NotConfirmed,
    RunChanged,
    RunExists,
    RunLocked,
    RunRefused,
    RunStopped,
    SettingsError,
    SigningKeyError,
)
from runner.folder import Folder
from runner.opening import Opened, give_up, open_new, reopen
from runner.settings import Resolved, Settings, resolve
from runner.tokens import ReadyToken, Tokens, load_signing_key
from runner.version import VERSION
from tests.stage import MIGRATE, NEW, PROJECT, Stage, demo_key

HEAD = "sync_id,user_id,credential_id\n"
GOOD = f"{HEAD}s1,u1,{NEW}\ns2,u2,{NEW}\n"
URL = "https://sync.example.com"


def user_token(user: str, *, expires_in_s: int = 600) -> str:
    """Return a ready-made token for *user*."""
    now = int(time.time())
    claims = {
        "sub": user,
        "aud": f"useparagon.com/{PROJECT}",
        "iat": now,
        "exp": now + expires_in_s,
    }
    return load_signing_key(demo_key(), origin="the tests").sign(claims)


def resolved(place: Path, environment: dict[str, str] | None = None, **flags: Any) -> Resolved:
    """Return settings that can open a run."""
    if environment is None:
        environment = {"PARAGON_SIGNING_KEY": demo_key().reveal()}
    own = {"base_url": URL, "project_id": PROJECT, "runs_dir": place / "runs"} | flags
    return resolve(
        {name.replace("_", "-"): value for name, value in own.items()},
        environment=environment,
        directory=place,
    )


class Opener:
    """Opens runs in one place, and lets go of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.source = place / "input.csv"
        self.source.write_text(GOOD)
        self.warnings: list[str] = []
        self._opened: list[Opened] = []

    def open(
        self,
        source: str | None = None,
        *,
        environment: dict[str, str] | None = None,
        flags: dict[str, Any] | None = None,
        **how: Any,
    ) -> Opened:
        """Open a new run."""
        opened = open_new(
            MIGRATE,
            source or str(self.source),
            resolved(self.place, environment, **(flags or {})),
            warn=self.warnings.append,
            **how,
        )
        self._opened.append(opened)
        return opened

    def reopen(self, run_id: str, **flags: Any) -> Opened:
        """Open a run to go on with it."""
        opened = reopen(run_id, resolved(self.place, **flags), warn=self.warnings.append)
        self._opened.append(opened)
        return opened

    def folder(self, run_id: str) -> Folder:
        """Return a run's folder."""
        return Folder.open(self.place / "runs", run_id)

    def close(self) -> None:
        """Let go of everything."""
        for opened in self._opened:
            opened.tokens.close()
            opened.folder.unlock()


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    """Opens runs, and lets go of them in the end."""
    opener = Opener(tmp_path)
    yield opener
    opener.close()


def test_a_new_run_is_locked_checked_and_counted(opener: Opener) -> None:
    """What is opened knows its input, its numbers and the versions that made it."""
    opened = opener.open(run_id="friday")
    manifest = opened.folder.read()

    assert opened.folder.path == opener.place / "runs" / "friday"
    assert opened.folder.is_locked()
    assert (opened.left, opened.resumed) == (2, False)
    assert (manifest.state, manifest.rows, manifest.users) == ("checking", 2, 2)
    assert manifest.job == MIGRATE
    assert manifest.input.name == str(opener.source)
    assert (manifest.input.file, manifest.input.bytes) == ("input.csv", len(GOOD))
    assert len(manifest.input.sha256 or "") == 64
    assert manifest.versions["syncshift"] == VERSION
    assert set(manifest.versions) >= {"python", "aiohttp", "anyio", "msgspec"}
    assert isinstance(opened.tokens, Tokens)
    assert opener.warnings == []


def test_no_secret_is_in_the_manifest(opener: Opener) -> None:
    """Settings are kept for resume; the key is not among them."""
    opened = opener.open()
    text = (opened.folder.path / "run.json").read_text()

    assert "PRIVATE" not in text
    assert demo_key().reveal()[60:100] not in text
    assert stat.S_IMODE((opened.folder.path / "run.json").stat().st_mode) == 0o600


def test_the_input_is_copied_as_it_is(opener: Opener) -> None:
    """The copy is the file's own bytes, packed if it was packed."""
    packed = gzip.compress(GOOD.encode())
    source = opener.place / "many.csv.gz"
    source.write_bytes(packed)
    opened = opener.open(str(source))

    assert (opened.folder.path / "input.csv.gz").read_bytes() == packed
    assert opened.left == 2


def test_without_a_copy_the_input_stays_where_it_is(opener: Opener) -> None:
    """--no-copy keeps the absolute name; changed or gone, it cannot be resumed."""
    opened = opener.open(copies=False)
    run_id = opened.folder.run_id
    give_up(opened, RunStopped("later"))

    assert not (opened.folder.path / "input.csv").exists()
    assert opened.manifest.input.file == str(opener.source.absolute())
    opener.reopen(run_id).folder.unlock()
    opener.source.write_text(GOOD + f"s3,u1,{NEW}\n")
    with pytest.raises(RunChanged, match="is not the input that the run began with"):
        opener.reopen(run_id)
    opener.source.unlink()
    with pytest.raises(RunChanged, match="cannot be read"):
        opener.reopen(run_id)


def test_standard_input_is_spooled(opener: Opener) -> None:
    """What came through a pipe is in the run, and the run knows that it was a pipe."""
    opened = opener.open("-", format="csv", standard_input=io.BytesIO(GOOD.encode()))

    assert (opened.folder.path / "input.csv").read_text() == GOOD
    assert (opened.manifest.input.name, opened.left) == ("-", 2)


def test_standard_input_cannot_be_left_where_it_is(opener: Opener) -> None:
    """A pipe can be read once, so --no-copy makes no sense with it; no run is made."""
    with pytest.raises(SettingsError, match="--no-copy cannot be had with standard input"):
        opener.open("-", format="csv", copies=False, standard_input=io.BytesIO())

    assert not (opener.place / "runs").exists()


def test_a_file_that_is_not_there_makes_no_run(opener: Opener) -> None:
    """The name is told, and nothing is left behind."""
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot be read \(No such file"):
        opener.open(str(opener.place / "nowhere.csv"))

    assert not (opener.place / "runs").exists()


def test_an_unknown_job_makes_no_run(opener: Opener) -> None:
    """The jobs there are get named."""
    with pytest.raises(SettingsError, match=r"there are: .*migrate-credentials"):
        open_new("nonsense", str(opener.source), resolved(opener.place), warn=print)

    assert not (opener.place / "runs").exists()


def test_a_bad_input_refuses_the_run(opener: Opener) -> None:
    """The run says *refused* and why; every bad row is in invalid.csv; nobody holds it."""
    opener.source.write_text(f"{HEAD}s1,u1,nonsense\ns2,u2,{NEW}\n")
    with pytest.raises(InputError, match="1 of 2 rows cannot become a change") as refused:
        opener.open(run_id="friday")
    folder = opener.folder("friday")
    manifest = folder.read()

    assert refused.value.total == 1
    assert (manifest.state, manifest.exit_code) == ("refused", 2)
    assert "cannot become a change" in (manifest.reason or "")
    assert manifest.ended is not None
    assert "nonsense" in (folder.path / "invalid.csv").read_text()
    assert stat.S_IMODE((folder.path / "invalid.csv").stat().st_mode) == 0o600
    assert not folder.is_locked()


def test_a_refused_run_gives_its_name_away(opener: Opener) -> None:
    """After the input was mended the same --run-id may be used."""
    opener.source.write_text(f"{HEAD}s1,u1,nonsense\n")
    with pytest.raises(InputError):
        opener.open(run_id="friday")
    opener.source.write_text(GOOD)
    opened = opener.open(run_id="friday")

    assert opened.left == 2
    assert not (opened.folder.path / "invalid.csv").exists()


def test_skipped_rows_are_listed_and_not_counted_as_left(opener: Opener) -> None:
    """--skip-invalid opens the run; the bad rows are in invalid.csv all the same."""
    opener.source.write_text(f"{HEAD}s1,u1,nonsense\ns2,u2,{NEW}\ns2,u2,{NEW}\n")
    opened = opener.open(flags={"skip_invalid": True})

    assert opened.left == 1
    assert (opened.checked.invalid, opened.checked.duplicates) == (1, 1)
    assert (opened.folder.path / "invalid.csv").exists()


def test_a_name_that_is_taken_is_refused(opener: Opener) -> None:
    """A run that exists is not written over; a bad name is no name."""
    first = opener.open(run_id="friday")
    give_up(first, RunStopped("later"))
    with pytest.raises(RunExists, match="syncshift resume friday"):
        opener.open(run_id="friday")
    with pytest.raises(SettingsError, match="--run-id"):
        opener.open(run_id="../friday")

    assert first.folder.read().state == "checking"


def test_a_run_that_is_at_work_is_not_reopened(opener: Opener) -> None:
    """The second process is told who holds it."""
    opened = opener.open(run_id="friday")
    with pytest.raises(RunLocked, match="run friday is being worked on by process"):
        opener.reopen("friday")

    assert opened.folder.is_locked()


def test_a_run_that_nobody_confirmed_is_refused(opener: Opener) -> None:
    """Whoever says no leaves a refused run behind, whose name is free again."""
    opened = opener.open(run_id="friday")
    give_up(opened, NotConfirmed("not confirmed; nothing was sent"))

    assert opened.folder.read().state == "refused"
    assert not opened.folder.is_locked()
    assert opener.open(run_id="friday").left == 2


def test_a_resume_that_nobody_confirmed_changes_nothing(opener: Opener) -> None:
    """A run that was there before stays what it was."""
    first = opener.open(run_id="friday")
    give_up(first, RunStopped("later"))
    again = opener.reopen("friday")
    give_up(again, NotConfirmed("not confirmed; nothing was sent"))

    assert again.resumed
    assert again.folder.read().state == "checking"
    assert not again.folder.is_locked()


def test_a_run_killed_while_it_checked_a_pipe_is_gone(opener: Opener) -> None:
    """Standard input cannot be read again; the message says so, and that nothing was sent."""
    opened = opener.open("-", format="csv", standard_input=io.BytesIO(GOOD.encode()))
    manifest = opened.manifest
    unread = msgspec.structs.replace(manifest.input, bytes=None, sha256=None)
    opened.folder.write(msgspec.structs.replace(manifest, input=unread, rows=None))
    opened.folder.unlock()
    with pytest.raises(RunRefused, match="ended while standard input was read, and that is gone"):
        opener.reopen(opened.folder.run_id)

    assert not opened.folder.is_locked()


def test_a_run_killed_while_it_checked_without_a_copy_is_checked_again(opener: Opener) -> None:
    """With --no-copy the file where it lies is simply checked again."""
    opened = opener.open(copies=False)
    manifest = opened.manifest
    unread = msgspec.structs.replace(manifest.input, bytes=None, sha256=None)
    opened.folder.write(msgspec.structs.replace(manifest, input=unread, rows=None, users=None))
    opened.folder.unlock()
    again = opener.reopen(opened.folder.run_id)

    assert again.left == 2
    assert again.manifest.input.sha256 == manifest.input.sha256


class TestTokenSource:
    """Where tokens come from."""

    def source(self, environment: dict[str, str], place: Path, **flags: Any) -> Any:
        """Return what these settings lead to."""
        found = resolved(place, environment, **flags)
        return token_source(found.secrets, found.settings, warn=self.warnings.append)

    def setup_method(self) -> None:
        """Collect warnings."""
        self.warnings: list[str] = []

    def test_without_any_secret_all_ways_are_named(self, tmp_path: Path) -> None:
        """Whoever has given nothing learns of all three ways."""
        with pytest.raises(SettingsError) as told:
            self.source({}, tmp_path)

        text = str(told.value)
        assert "--signing-key-file" in text
        assert "PARAGON_SIGNING_KEY" in text
        assert "PARAGON_USER_TOKEN" in text

    def test_a_key_needs_an_audience(self, tmp_path: Path) -> None:
        """Without a project there is nobody whom a token is meant for."""
        with pytest.raises(SettingsError, match="a token needs its audience; give --project-id"):
            self.source({"PARAGON_SIGNING_KEY": demo_key().reveal()}, tmp_path, project_id=None)

    def test_a_key_file_that_others_can_read_is_warned_about(self, tmp_path: Path) -> None:
        """X7: mounted secrets are often readable by all, so it is a warning and no refusal."""
        file = tmp_path / "key.pem"
        file.write_text(demo_key().reveal())
        file.chmod(0o644)
        source = self.source({}, tmp_path, signing_key_file=str(file))
        file.chmod(0o600)
        quiet = len(self.warnings)
        self.source({}, tmp_path, signing_key_file=str(file))

        assert source.renewable
        assert quiet == len(self.warnings) == 1
        assert str(file) in self.warnings[0]

    def test_a_key_that_is_none_is_refused(self, tmp_path: Path) -> None:
        """The variable is named, its content is not."""
        with pytest.raises(SigningKeyError, match="PARAGON_SIGNING_KEY"):
            self.source({"PARAGON_SIGNING_KEY": "nonsense"}, tmp_path)

    def test_a_ready_made_token_is_taken_as_it_is(self, tmp_path: Path) -> None:
        """It cannot be renewed."""
        source = self.source({"PARAGON_USER_TOKEN": user_token("u1")}, tmp_path)

        assert isinstance(source, ReadyToken)
        assert not source.renewable

    def test_a_ready_made_token_that_expired_is_refused(self, tmp_path: Path) -> None:
        """The message says when."""
        with pytest.raises(SettingsError, match=r"PARAGON_USER_TOKEN expired at 20\d\d-.*Z; get"):
            self.source({"PARAGON_USER_TOKEN": user_token("u1", expires_in_s=-10)}, tmp_path)

    def test_a_token_is_renewed_before_the_longest_request_could_outlive_it(
        self, tmp_path: Path
    ) -> None:
        """A time limit as long as a token's life cannot be had."""
        environment = {"PARAGON_SIGNING_KEY": demo_key().reveal()}
        with pytest.raises(SettingsError, match="Shorten the time limit"):
            self.source(environment, tmp_path, timeout="1h")


def test_a_ready_made_token_speaks_for_one_user_only(opener: Opener) -> None:
    """An input with several users refuses the run; the numbers are told."""
    with pytest.raises(SettingsError, match="the input names 2 users, but PARAGON_USER_TOKEN"):
        opener.open(environment={"PARAGON_USER_TOKEN": user_token("u1")}, run_id="friday")

    assert opener.folder("friday").read().state == "refused"


async def test_with_a_ready_made_token_the_input_needs_no_user(tmp_path: Path) -> None:
    """One user's batch, without a user_id column, is carried as that user."""
    async with Stage(tmp_path) as stage:
        stage.plain(5)
        stage.write({"sync_id": f"s{n}", "credential_id": NEW} for n in range(1, 6))
        token = resolve(
            {"base-url": stage.sim.base_url, "runs-dir": tmp_path / "runs"},
            environment={"PARAGON_USER_TOKEN": user_token("u1")},
            directory=tmp_path,
        )
        opened = open_new(MIGRATE, str(stage.source), token, warn=pytest.fail)
        run = await stage.carry(opened)

        assert run.counts == {"updated": 5}
        assert {e.user for e in stage.audit} == {"u1"}


async def test_a_ready_made_token_that_is_refused_is_not_tried_twice(tmp_path: Path) -> None:
    """A4: there is no other token, so a 401 is final; one user's batch then stops as a whole."""
    async with Stage(tmp_path, concurrency=1) as stage:
        stage.plain(30)
        stage.checker = lambda _: None
        token = resolve(
            {"base-url": stage.sim.base_url, "runs-dir": tmp_path / "runs"},
            environment={"PARAGON_USER_TOKEN": user_token("u1")},
            directory=tmp_path,
        )
        run = await stage.carry(open_new(MIGRATE, str(stage.source), token, warn=pytest.fail))

        assert run.counts == {"unprocessed": 30}
        assert set(stage.reads.values()) == {1}
        assert "401: Unauthorized" in run.reason


def test_expectations_are_refused_without_reading(opener: Opener) -> None:
    """expected_* cannot be held against what is not read."""
    opener.source.write_text(f"{HEAD[:-1]},expected_credential_id\ns1,u1,{NEW},{NEW}\n")
    with pytest.raises(InputError, match="expected_credential_id"):
        opener.open(flags={"no_read": True})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"base_url": "https://other.example.com"}, "--base-url"),
        ({"project_id": "p2"}, "--project-id p1, and now it is p2"),
    ],
)
def test_d9_what_the_environment_says_counts_as_told(
    flags: dict[str, str], told: str, opener: Opener
) -> None:
    """D9: a variable left over from another project is refused like a flag."""
    opened = opener.open()
    opened.folder.unlock()
    variables = {"base_url": "PARAGON_SYNC_URL", "project_id": "PARAGON_PROJECT_ID"}
    environment = {"PARAGON_SIGNING_KEY": demo_key().reveal()}
    environment |= {variables[name]: value for name, value in flags.items()}
    others = resolve(
        {"runs-dir": opener.place / "runs"}, environment=environment, directory=opener.place
    )
    with pytest.raises(RunChanged, match=told):
        reopen(opened.folder.run_id, others, warn=print)


def test_what_is_not_told_is_the_runs_own(opener: Opener) -> None:
    """A resume without any flag has the run's settings, whatever the defaults are."""
    opened = opener.open(flags={"concurrency": 7, "max_attempts": 2, "max_failures": "4"})
    opened.folder.unlock()
    bare = resolve(
        {"runs-dir": opener.place / "runs"},
        environment={"PARAGON_SIGNING_KEY": demo_key().reveal()},
        directory=opener.place,
    )
    again = reopen(opened.folder.run_id, bare, warn=print)
    again.folder.unlock()

    assert again.settings == opened.settings
    assert again.settings != Settings()
