"""`doctor` and `config show`: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from runner.simulator import Behavior, Faults, OutageKind, SyncRecord
from tests.commands import NEW, Command, Stage, signing_key
from tests.stranger import Stranger

ALL = (
    "versions",
    "settings",
    "key",
    "project",
    "folder",
    "descriptors",
    "host",
    "tls",
    "clock",
    "read",
)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage with one user, who has one sync."""
    with Stage(tmp_path) as there:
        record = SyncRecord(id="s1", user="ada", credential_id=NEW, frequency="1h")
        there.there(there.simulator.add, record)
        yield there


def checks_of(command: Command) -> dict[str, dict[str, Any]]:
    """Return the checks of a command with --json, by name."""
    told = command.json()
    assert told["exit_code"] == command.code
    return {check["name"]: check for check in told["checks"]}


def the_only_fault(command: Command, name: str) -> str:
    """Return what is said of *name*, which must be the only check that failed."""
    checks = checks_of(command)
    assert command.code == 2, command.out
    assert [n for n, check in checks.items() if check["status"] == "fail"] == [name]
    return f"{checks[name]['seen']} / {checks[name]['mend']}"


# --------------------------------------------------------------------------------------- all well


def test_a_good_place_is_told_line_by_line(stage: Stage) -> None:
    """0: every check has its line, and nothing was written, here or there."""
    before = sorted(stage.home.iterdir())

    told = stage.here("doctor", "--user", "ada", "--sync", "s1")

    assert told.code == 0, told.out
    lines = told.out.splitlines()
    assert [line.split()[1] for line in lines] == list(ALL)
    assert {line.split()[0] for line in lines} == {"ok"}
    assert f"sync 's1' is IDLE, credential {NEW}, frequency 1h" in lines[-1]
    assert sorted(stage.home.iterdir()) == before
    assert {entry.method for entry in stage.audit} == {"GET"}


def test_as_json_it_is_one_object(stage: Stage) -> None:
    """With --json: the verdict, the exit code, and each check with what was seen."""
    command = stage.run("doctor", "--user", "ada", "--json")

    assert command.json()["verdict"] == "ok", command.out
    assert list(checks_of(command)) == list(ALL)
    assert checks_of(command)["read"]["seen"] == "user 'ada' has 1 sync"


def test_without_a_user_it_says_what_it_cannot_tell(stage: Stage) -> None:
    """Nobody is made up to be read: the check is left open, and says what is needed."""
    command = stage.run("doctor")

    assert command.code == 0
    assert "warn  read" in command.out
    assert "give --user ID" in command.out
    assert [entry.user for entry in stage.audit] == [None]


def test_quiet_tells_faults_only(stage: Stage) -> None:
    """With --quiet a good place is silent, and a bad one names what is bad."""
    good = stage.run("doctor", "--user", "ada", "--quiet")
    bad = stage.run("doctor", "--quiet", env={"PARAGON_PROJECT_ID": None})

    assert (good.code, good.out, good.err) == (0, "", "")
    assert bad.code == 2
    assert {line.split()[0] for line in bad.out.splitlines() if line[0] != " "} == {"fail"}


# ------------------------------------------------------------------------------- key and project


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist / Check --signing-key-file"),
        ("", "is empty / Use the RSA private key"),
        ("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----", "holds a public key"),
        ("eyJhbGciOiJSUzI1NiJ9.e30.x", "holds a token (JWT), not a key"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(stage: Stage, text: str | None, said: str) -> None:
    """What is in place of the key, and where the right one comes from; the rest is looked at."""
    stage.key_file.unlink()
    if text is not None:
        stage.key_file.write_text(text, encoding="utf-8")

    command = stage.run("doctor", "--user", "ada", "--json")

    assert said in the_only_fault(command, "key")
    assert "read" not in checks_of(command)
    assert "clock" in checks_of(command)


def test_no_key_and_no_project_are_two_faults(stage: Stage) -> None:
    """Each has a line of its own, with the variable that would hold it."""
    env = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_PROJECT_ID": None}

    command = stage.run("doctor", env=env)

    assert command.code == 2
    assert "fail  key" in command.out
    assert "PARAGON_SIGNING_KEY" in command.out
    assert "fail  project" in command.out
    assert "PARAGON_PROJECT_ID" in command.out


def test_a_sound_key_without_a_project_is_sound(stage: Stage) -> None:
    """A missing project is no fault of the key."""
    command = stage.run("doctor", "--user", "ada", "--json", env={"PARAGON_PROJECT_ID": None})

    assert "give --project-id" in the_only_fault(command, "project")
    assert checks_of(command)["key"]["status"] == "ok"


def test_a_key_that_others_can_read_is_warned_about(stage: Stage) -> None:
    """A run can be begun, but the key should be closed: told with the command that does it."""
    stage.key_file.chmod(0o644)

    command = stage.run("doctor", "--user", "ada", "--json")

    assert command.code == 0
    key = checks_of(command)["key"]
    assert (key["status"], key["mend"]) == ("warn", f"chmod 600 {stage.key_file}")
    assert "mode 0644" in key["seen"]


def test_a_key_of_another_project_is_found_by_a_read(stage: Stage) -> None:
    """What no look at the key can tell, the host does: the token is not accepted."""
    env = {"PARAGON_PROJECT_ID": "another"}

    command = stage.run("doctor", "--user", "ada", "--json", env=env)

    assert "the token of user 'ada' is not accepted: 401" in the_only_fault(command, "read")


def test_a_ready_made_token_needs_no_user(stage: Stage) -> None:
    """It says for whom it is; one that ends soon is warned about, as it ends the run."""
    env = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_USER_TOKEN": stage.token("ada")}

    command = stage.run("doctor", "--sync", "s1", "--json", env=env)

    assert command.code == 0, command.out
    found = checks_of(command)
    assert "which ends at" in found["key"]["seen"] or "good until" in found["key"]["seen"]
    assert found["read"]["status"] == "ok"
    assert stage.token("ada")[:40] not in command.out


def test_a_secret_is_never_shown(stage: Stage) -> None:
    """Neither a key nor a token stands in what any check says."""
    key = signing_key().reveal()
    needle = key.splitlines()[1]
    env = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_SIGNING_KEY": key}

    shown = stage.run("doctor", "--user", "ada", env=env)
    listed = stage.run("config", "show", "--json", env=env)
    broken = stage.run("doctor", env={**env, "PARAGON_SIGNING_KEY": needle})

    assert shown.code == 0, shown.out
    for command in (shown, listed, broken):
        assert needle not in command.out + command.err
        assert "eyJ" not in command.out + command.err


# ------------------------------------------------------------------------------ settings, machine


def test_wrong_settings_are_the_first_fault_and_the_last_line(stage: Stage) -> None:
    """What rests on settings is not looked at while they are wrong; all of them are named."""
    command = stage.run("doctor", "--rate", "x", "--timeout", "y", "--json")

    said = the_only_fault(command, "settings")
    assert "--rate must be" in said
    assert "--timeout must be" in said
    assert list(checks_of(command)) == ["versions", "settings"]


def test_a_sync_needs_its_user(stage: Stage) -> None:
    """A sync can be read only as the one who owns it: exit 2."""
    told = stage.here("doctor", "--sync", "s1")

    assert told.code == 2
    assert "--sync needs --user" in told.err


def test_a_folder_that_cannot_be_is_a_fault(stage: Stage) -> None:
    """A file in place of the runs folder is named, with the flag that chooses another."""
    (stage.home / "file").touch()

    command = stage.run("doctor", "--user", "ada", "--runs-dir", "file/runs", "--json")

    said = the_only_fault(command, "folder")
    assert "file is no folder" in said
    assert "--runs-dir" in said


def test_a_folder_that_others_can_write_to_is_warned_about(stage: Stage) -> None:
    """Runs hold what rollback trusts: nobody else should write there."""
    stage.runs.mkdir()
    stage.runs.chmod(0o777)

    command = stage.run("doctor", "--user", "ada", "--json")

    folder = checks_of(command)["folder"]
    assert (command.code, folder["status"], folder["mend"]) == (0, "warn", "chmod go-w runs")
    assert list(stage.runs.iterdir()) == []


def test_a_folder_that_takes_no_file_is_a_fault(stage: Stage) -> None:
    """Whether it can be written to is found out by writing."""
    command = stage.run("doctor", "--user", "ada", "--runs-dir", "/proc/runs", "--json")

    assert "cannot be written to" in the_only_fault(command, "folder")


@pytest.mark.parametrize(
    ("limits", "mend"),
    [("ulimit -Sn 80", "ulimit -n 96"), ("ulimit -n 80", "lower --concurrency to 16")],
)
def test_too_few_descriptors_are_a_fault(stage: Stage, limits: str, mend: str) -> None:
    """As many connections as requests must be allowed to be open, and some files."""
    command = stage.run("doctor", "--user", "ada", "--json", before=limits)

    assert mend in the_only_fault(command, "descriptors")


# ---------------------------------------------------------------------------------------- the host


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9", "the host refused the connection"),
        ("https://nowhere.invalid", "name did not resolve"),
    ],
)
def test_a_host_that_is_not_there_is_a_fault(stage: Stage, url: str, said: str) -> None:
    """Nobody at the address: told once, and what hangs on it is left out."""
    command = stage.run("doctor", "--user", "ada", "--json", env={"PARAGON_SYNC_URL": url})

    assert said in the_only_fault(command, "host")
    assert list(checks_of(command)) == [*ALL[:7]]


def test_a_host_that_is_down_is_not_the_wrong_one(stage: Stage) -> None:
    """A 503 may pass; the list that follows says what it met."""
    stage.there(stage.simulator.outage, OutageKind.UNAVAILABLE)

    command = stage.run("doctor", "--json")

    assert checks_of(command)["host"]["status"] == "warn"
    assert "503" in checks_of(command)["host"]["seen"]


@pytest.mark.parametrize(
    ("skew_s", "status"), [(0, "ok"), (12, "ok"), (-90, "warn"), (1e6, "fail")]
)
def test_a_clock_that_is_off_is_told(stage: Stage, skew_s: float, status: str) -> None:
    """By the Date of an answer: small differences are noise, a day is no clock."""
    stage.simulator.behavior = Behavior(clock_skew_s=skew_s)

    found = checks_of(stage.run("doctor", "--json"))["clock"]

    assert found["status"] == status
    if abs(skew_s) > 60:
        assert ("behind" if skew_s > 0 else "ahead of") in found["seen"]
        assert "NTP" in found["mend"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--user", "nobody"), "warn", "user 'nobody' has no syncs"),
        (("--user", "ada", "--sync", "s2"), "fail", "user 'ada' has no sync 's2'"),
        (("--user", "eve", "--sync", "s1"), "fail", "user 'eve' has no sync 's1'"),
    ],
)
def test_what_a_user_does_not_have_is_told(
    stage: Stage, words: tuple[str, ...], status: str, said: str
) -> None:
    """A user without syncs may be right; a sync that is somebody else's is not there."""
    found = checks_of(stage.run("doctor", *words, "--json"))["read"]

    assert (found["status"], found["seen"]) == (status, said)


def test_an_old_api_that_tells_less_is_warned_about(stage: Stage) -> None:
    """Where the credential is not told, no change can be proved to be in force."""
    stage.simulator.behavior = Behavior(tells=frozenset())

    found = checks_of(stage.run("doctor", "--user", "ada", "--sync", "s1", "--json"))["read"]

    assert found["status"] == "warn"
    assert "proved only as accepted" in found["mend"]


def test_a_read_that_fails_says_how(stage: Stage) -> None:
    """An answer that is none is told with its reason."""
    stage.simulator.faults = Faults(not_json=1.0)

    command = stage.run("doctor", "--user", "ada", "--json")

    assert "could not be read" in the_only_fault(command, "read")


# ---------------------------------------------------------------------------------- other servers


def certificate(path: Path, *, days: int) -> Path:
    """Write a key and a certificate of this machine that is good for so many days."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>welcome</html>"), (404, b"no"), (401, b"<html>log in</html>"), (302, b"")],
)
def test_a_host_that_is_something_else_is_a_fault(stage: Stage, status: int, body: bytes) -> None:
    """A web site, a login page or a redirect in place of the Sync API is told as such."""
    with Stranger(status=status, body=body) as stranger:
        command = stage.run("doctor", "--json", env={"PARAGON_SYNC_URL": stranger.url})

    said = the_only_fault(command, "host")
    assert f"does not speak the Sync API: {status} without a token" in said
    assert "--base-url" in said


def test_tls_is_told_with_the_end_of_its_certificate(stage: Stage, tmp_path: Path) -> None:
    """A good certificate is told with its end, one that ends soon is warned about."""
    for days, status in ((90, "ok"), (3, "warn")):
        path = certificate(tmp_path / f"{days}.pem", days=days)
        env = {"SSL_CERT_FILE": str(path)}
        with Stranger(status=401, body=b"{}", certificate=path) as stranger:
            command = stage.run("doctor", "--json", env={**env, "PARAGON_SYNC_URL": stranger.url})

        found = checks_of(command)
        assert found["host"]["status"] == "ok", found
        assert found["tls"]["status"] == status
        assert found["tls"]["seen"].startswith("TLSv1.3, certificate good until 20")


def test_a_certificate_that_nobody_vouches_for_is_a_fault(stage: Stage, tmp_path: Path) -> None:
    """Told twice: the host cannot be asked, and why the certificate is not accepted."""
    path = certificate(tmp_path / "own.pem", days=90)
    with Stranger(status=401, body=b"{}", certificate=path) as stranger:
        command = stage.run("doctor", "--json", env={"PARAGON_SYNC_URL": stranger.url})

    found = checks_of(command)
    assert command.code == 2
    assert "certificate was not accepted" in found["host"]["seen"]
    assert "self-signed certificate" in found["tls"]["seen"]
    assert "SSL_CERT_FILE" in found["tls"]["mend"]


# ------------------------------------------------------------------------------------- config show


def test_each_setting_says_where_it_comes_from(stage: Stage) -> None:
    """Flag, variable by its name, file, default, or made from another setting."""
    (stage.home / "syncshift.toml").write_text('until = "accepted"\nrate = 7\ndrain = "90s"\n')

    told = stage.here("config", "show", "--rate", "20", "--skip-invalid")

    assert told.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in told.out.splitlines()}
    assert rows["rate"] == ["20", "flag"]
    assert rows["skip-invalid"] == ["yes", "flag"]
    assert rows["until"] == ["accepted", "syncshift.toml"]
    assert rows["drain"] == ["90s", "syncshift.toml"]
    assert rows["base-url"] == [stage.base_url, "PARAGON_SYNC_URL"]
    assert rows["project-id"] == ["test-project", "PARAGON_PROJECT_ID"]
    assert rows["audience"] == ["useparagon.com/test-project", "project-id"]
    assert rows["signing-key-file"] == [str(stage.key_file), "PARAGON_SIGNING_KEY_FILE"]
    assert rows["max-outage"] == ["15m", "default"]
    assert rows["resync-timeout"] == ["6h", "default"]
    assert rows["runs-dir"] == ["runs", "default"]
    assert rows["user-token"] == ["-", "default"]


def test_the_settings_of_a_rollout_are_shown(stage: Stage) -> None:
    """As they would be typed; the budget's default goes by how far rows are carried."""
    waves = ("--waves", "1,10%,100%", "--gate", "failed=0", "--max-resyncs-per", "user=3")

    told = stage.here("config", "show", *waves, "--spread", "6h", "--until", "resynced")
    others = stage.here("config", "show", "--until", "accepted")

    rows = {line.split()[0]: line.split()[1:] for line in told.out.splitlines()}
    assert rows["waves"] == ["1,10%,100%", "flag"]
    assert rows["gate"] == ["failed=0", "flag"]
    assert rows["max-resyncs-per"] == ["user=3", "flag"]
    assert rows["max-resyncs"] == ["50", "default"]
    assert rows["spread"] == ["6h", "flag"]
    assert ["max-resyncs", "none", "default"] in [line.split() for line in others.out.splitlines()]


def test_of_a_secret_only_its_being_set_is_shown(stage: Stage) -> None:
    """A secret is `set`, and by which variable; its text is nowhere."""
    env = {"PARAGON_SIGNING_KEY_FILE": None, "PARAGON_USER_TOKEN": "canary-token-7f3a"}

    shown = stage.run("config", "show", env=env)
    listed = stage.run("config", "show", "--json", env=env)

    assert "canary" not in shown.out + shown.err + listed.out + listed.err
    (secret,) = (s for s in listed.json() if s["name"] == "user-token")
    assert secret == {
        "name": "user-token",
        "value": "set",
        "origin": "PARAGON_USER_TOKEN",
        "unit": None,
    }


def test_every_setting_is_shown(stage: Stage) -> None:
    """Whatever can stand in a settings file is in the list, and nothing is in it twice."""
    from runner.settings import Settings

    names = [setting["name"] for setting in json.loads(stage.here("config", "show", "--json").out)]

    assert len(names) == len(set(names)) == len(Settings.__struct_fields__) + 4


def test_settings_that_cannot_be_are_refused(stage: Stage) -> None:
    """As by every command: exit 2, each named."""
    told = stage.here("config", "show", "--rate", "x")

    assert told.code == 2
    assert "--rate must be" in told.err
