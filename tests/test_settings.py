"""Flags over environment over file over defaults; whatever is wrong is told, and all at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SettingsError
from runner.knobs import duration_s
from runner.settings import (
    FILE_NAME,
    Places,
    Resolved,
    Secrets,
    Settings,
    check_run_id,
    resolve,
)

KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


def settle(
    directory: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: str | None = None,
) -> Resolved:
    """Resolve settings in *directory*, with a file of that content there."""
    if file is not None:
        (directory / FILE_NAME).write_text(file, encoding="utf-8")
    return resolve(flags or {}, environment=environment or {}, directory=directory)


def test_with_nothing_given_the_defaults_hold(tmp_path: Path) -> None:
    """Without flags, environment and file there is a complete set of settings."""
    found = settle(tmp_path)

    assert found == Resolved(Settings(), Secrets(), Places(Path("runs")), frozenset())
    assert found.settings.base_url == "https://sync.useparagon.com"
    assert found.settings.concurrency == 32
    assert found.settings.rate is None
    assert found.settings.max_attempts == 5
    assert found.settings.timeout_s == 30.0
    assert found.settings.max_outage_s == 900.0
    assert found.settings.max_failures == "10%"
    assert found.settings.drain_s == 30.0
    assert not found.secrets.ready_made


EVERYTHING = {
    "base-url": ("https://on-prem.example/api/", "base_url", "https://on-prem.example"),
    "project-id": (" p-1 ", "project_id", "p-1"),
    "audience": ("aud", "audience", "aud"),
    "trust-env": (True, "trust_env", True),
    "allow-http": (True, "allow_http", True),
    "concurrency": (7, "concurrency", 7),
    "processes": (2, "processes", 2),
    "engine": ("postgres", "engine", "postgres"),
    "rate": (2.5, "rate", 2.5),
    "max-attempts": ("9", "max_attempts", 9),
    "timeout": ("500ms", "timeout_s", 0.5),
    "max-outage": ("2h", "max_outage_s", 7200.0),
    "until": ("confirmed", "until", "confirmed"),
    "confirm-timeout": ("2m", "confirm_timeout_s", 120.0),
    "resync-timeout": ("3h", "resync_timeout_s", 10_800.0),
    "no-read": (True, "no_read", True),
    "skip-invalid": (True, "skip_invalid", True),
    "ignore-column": (["a", "b"], "ignore_columns", ("a", "b")),
    "max-failures": ("5", "max_failures", "5"),
    "strict": (True, "strict", True),
    "max-resyncs": ("none", "max_resyncs", "none"),
    "max-resyncs-per": (["user=2"], "max_resyncs_per", ("user=2",)),
    "waves": ("1,1%,100%", "waves", "1,1%,100%"),
    "seed": ("friday", "seed", "friday"),
    "soak": ("10m", "soak_s", 600.0),
    "gate": (["errored=0,failed=1%"], "gates", ("errored=0", "failed=1%")),
    "approve": (True, "approve", True),
    "start-at": ("2026-11-27T22:00+01:00", "start_at", "2026-11-27T21:00:00Z"),
    "at": ("2:00@Europe/Berlin", "at", "02:00@Europe/Berlin"),
    "zone-column": ("time_zone", "zone_column", "time_zone"),
    "window": ("22:00-6:00@UTC", "window", "22:00-06:00@UTC"),
    "spread": ("6h", "spread_s", 21_600.0),
    "health": ("check 'all is well'", "health", "check 'all is well'"),
    "drain": (45, "drain_s", 45.0),
}


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("way", ["flag", "file"])
def test_every_setting_can_be_a_flag_and_stand_in_the_file(
    tmp_path: Path, name: str, way: str
) -> None:
    """One name everywhere; what was given is told apart from what is a default."""
    value, field, wanted = EVERYTHING[name]
    if way == "flag":
        found = settle(tmp_path, flags={name: value})
    else:
        found = settle(tmp_path, file=f"{name} = {json.dumps(value)}")

    assert getattr(found.settings, field) == wanted
    assert found.told == {field}


def test_every_setting_is_in_the_table() -> None:
    """A new setting is read, or this test says that it is not."""
    fields = {field for _, field, _ in EVERYTHING.values()}

    assert fields == {field.name for field in msgspec.structs.fields(Settings)}


def test_flags_go_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    """The nearer word counts; a flag that was not given says nothing."""
    file = 'base-url = "https://file"\nproject-id = "file"\naudience = "file"\nconcurrency = 3'
    environment = {"PARAGON_SYNC_URL": "https://env", "PARAGON_PROJECT_ID": "env"}
    flags = {"base-url": "https://flag", "project-id": None, "rate": None}
    found = settle(tmp_path, flags=flags, environment=environment, file=file).settings

    assert found.base_url == "https://flag"
    assert found.project_id == "env"
    assert found.audience == "file"
    assert found.concurrency == 3
    assert found.rate is None


def test_each_variable_is_read(tmp_path: Path) -> None:
    """The variables of the contract are understood, and an empty one counts as not set."""
    environment = {
        "PARAGON_SYNC_URL": "https://env/api",
        "PARAGON_PROJECT_ID": "p",
        "PARAGON_AUDIENCE": "a",
        "PARAGON_SIGNING_KEY_FILE": "/keys/k.pem",
        "SYNCSHIFT_RUNS": "/var/runs",
    }
    found = settle(tmp_path, environment=environment)
    blank = settle(tmp_path, environment=dict.fromkeys(environment, " "))

    assert found.settings == Settings(base_url="https://env", project_id="p", audience="a")
    assert found.secrets.signing_key_file == Path("/keys/k.pem")
    assert found.places.runs_dir == Path("/var/runs")
    assert found.told == {"base_url", "project_id", "audience"}
    assert blank == settle(tmp_path)


def test_the_audience_follows_from_the_project(tmp_path: Path) -> None:
    """Paragon's audience is made of the project's id, unless another is given."""
    made = settle(tmp_path, flags={"project-id": "p-1"})
    given_ = settle(tmp_path, flags={"project-id": "p-1", "audience": "mine"})

    assert made.settings.audience == "useparagon.com/p-1"
    assert made.told == {"project_id"}
    assert given_.settings.audience == "mine"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("30s", 30),
        ("15m", 900),
        ("6h", 21600),
        ("2d", 172800),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (" 5s ", 5),
        ("0", 0),
        ("0.25", 0.25),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    """A number with one of five units; seconds without one."""
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-5s",
        "+5",
        "5 s",
        "5S",
        "1h30m",
        "1e3",
        "inf",
        "nan",
        ".5",
        "5.",
        "1_000",
        "\u0665s",
        "9999999999",
        "5sec",
        "1.1234567s",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing is guessed about a duration."""
    with pytest.raises(ValueError, match="must be a duration such as 30s, 15m or 6h"):
        duration_s(text)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("concurrency", "0", "whole number from 1 to 100000"),
        ("processes", "0", "whole number from 1 to 99"),
        ("processes", "100", "whole number from 1 to 99"),
        ("processes", True, "whole number from 1 to 99"),
        ("concurrency", "100001", "whole number from 1 to 100000"),
        ("concurrency", "1e3", "whole number from 1 to 100000"),
        ("concurrency", "-1", "whole number"),
        ("concurrency", 2.5, "whole number"),
        ("concurrency", True, "whole number"),
        ("concurrency", "\u0665", "whole number"),
        pytest.param("concurrency", "9" * 5000, "whole number", id="concurrency-of-5000-digits"),
        ("max-attempts", "0", "whole number"),
        ("rate", "0", "requests per second, at least 0.001"),
        ("rate", "-1", "requests per second"),
        ("rate", "nan", "requests per second"),
        ("rate", "inf", "requests per second"),
        ("rate", "fast", "requests per second"),
        pytest.param("rate", 10**400, "requests per second", id="rate-of-400-digits"),
        ("rate", True, "requests per second"),
        ("rate", [1], "requests per second"),
        ("timeout", "0", "longer than nothing"),
        ("timeout", "soon", "must be a duration"),
        ("max-outage", "0s", "longer than nothing"),
        ("drain", "-1", "must be a duration"),
        ("trust-env", "yes", "must be true or false"),
        ("no-read", 1, "must be true or false"),
        ("until", "done", "must be accepted, confirmed or resynced"),
        ("project-id", "  ", "must not be empty"),
        ("project-id", "a\nb", "must be a text without control characters"),
        ("ignore-column", "a", "must be a list of column names"),
        ("ignore-column", ["a", ""], "must not be empty"),
        ("max-failures", "", "must not be empty"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str, value: object, why: str) -> None:
    """A value outside its range names the flag, the rule and what was found."""
    with pytest.raises(SettingsError) as refusal:
        settle(tmp_path, flags={name: value})

    assert str(refusal.value).startswith(f"--{name} must ")
    assert why in str(refusal.value)
    assert str(refusal.value).endswith(f"got {value!r}")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """One go finds every mistake, each with the place where it was made."""
    with pytest.raises(SettingsError) as refusal:
        settle(
            tmp_path,
            flags={"timeout": "soon"},
            environment={"PARAGON_SYNC_URL": "http://evil"},
            file="concurrency = 0\nrate = 'fast'",
        )
    lines = str(refusal.value).splitlines()

    assert len(lines) == 4
    assert lines[0].startswith("syncshift.toml: --concurrency must be a whole number")
    assert lines[0].endswith("; got 0")
    assert lines[1].startswith("syncshift.toml: --rate must be a number of requests per second")
    assert lines[1].endswith("; got 'fast'")
    assert lines[2] == "--timeout must be a duration such as 30s, 15m or 6h; got 'soon'"
    assert lines[3].startswith("PARAGON_SYNC_URL: --base-url must be https")
    assert lines[3].endswith("; got 'http://evil'")


def test_http_is_allowed_by_its_flag_alone(tmp_path: Path) -> None:
    """Plain http to another host needs to be asked for, in whatever way."""
    flags = {"base-url": "http://on-prem.example"}
    with pytest.raises(SettingsError, match="must be https"):
        settle(tmp_path, flags=flags)

    found = settle(tmp_path, flags=flags, file="allow-http = true")
    assert found.settings.base_url == "http://on-prem.example"


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("concurency = 3", "there is no setting 'concurency'; is concurrency meant?"),
        ("zzz = 3", "there is no setting 'zzz'; there are: base-url, project-id,"),
        ("[settings]\nrate = 3", "there is no setting 'settings'"),
        ("max_outage = '5m'", "there is no setting 'max_outage'; is max-outage meant?"),
        ("rate = ", "cannot be read as TOML"),
        ("rate = 1\nrate = 2", "cannot be read as TOML"),
        ("rate = " + "9" * 5000, "cannot be read as TOML"),
        (f"signing-key = '''{KEY}'''", "must not stand in a file that is shared"),
        (f"user-token = '{TOKEN}'", "set PARAGON_USER_TOKEN instead"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, file: str, why: str) -> None:
    """An unknown name is told with the near one; a secret in the file with its variable."""
    with pytest.raises(SettingsError) as refusal:
        settle(tmp_path, file=file)

    assert str(refusal.value).startswith(f"{tmp_path / FILE_NAME}: ")
    assert why in str(refusal.value)


def test_x1_a_refused_file_does_not_give_its_secret_away(tmp_path: Path) -> None:
    """That a secret stands in the file is told; the secret is not."""
    with pytest.raises(SettingsError) as refusal:
        settle(tmp_path, file=f"user-token = '{TOKEN}'")

    assert "eyJ" not in str(refusal.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, or a folder of that name, are told by path."""
    (tmp_path / FILE_NAME).write_bytes(b"rate = '\xff'")
    with pytest.raises(SettingsError, match="cannot be read as TOML"):
        settle(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(SettingsError, match="cannot be read as TOML"):
        settle(tmp_path)


def test_one_secret_is_taken_from_the_environment(tmp_path: Path) -> None:
    """A key or a token is its own type, and a blank one counts as none."""
    key = settle(tmp_path, environment={"PARAGON_SIGNING_KEY": KEY}).secrets
    token = settle(tmp_path, environment={"PARAGON_USER_TOKEN": TOKEN}).secrets
    neither = settle(
        tmp_path, environment={"PARAGON_USER_TOKEN": " ", "PARAGON_SIGNING_KEY": ""}
    ).secrets
    file = settle(tmp_path, flags={"signing-key-file": "k.pem"}).secrets

    assert key.signing_key is not None
    assert key.signing_key.reveal() == KEY
    assert token.user_token is not None
    assert token.user_token.reveal() == TOKEN
    assert [s.ready_made for s in (key, token, neither, file)] == [False, True, False, False]
    assert neither == Secrets()
    assert file == Secrets(signing_key_file=Path("k.pem"))


@pytest.mark.parametrize(
    ("environment", "flags", "named"),
    [
        (
            {"PARAGON_USER_TOKEN": TOKEN, "PARAGON_SIGNING_KEY": KEY},
            {},
            ("PARAGON_USER_TOKEN", "PARAGON_SIGNING_KEY"),
        ),
        (
            {"PARAGON_USER_TOKEN": TOKEN},
            {"signing-key-file": "k.pem"},
            ("PARAGON_USER_TOKEN", "--signing-key-file"),
        ),
        (
            {"PARAGON_SIGNING_KEY": KEY, "PARAGON_SIGNING_KEY_FILE": "k.pem"},
            {},
            ("PARAGON_SIGNING_KEY", "--signing-key-file"),
        ),
    ],
)
def test_two_secrets_are_one_too_many(
    tmp_path: Path, environment: dict[str, str], flags: dict[str, str], named: tuple[str, str]
) -> None:
    """As whom requests are sent is never a matter of precedence; neither secret is shown."""
    with pytest.raises(SettingsError) as refusal:
        settle(tmp_path, environment=environment, flags=flags)

    assert all(name in str(refusal.value) for name in named)
    assert "unset one of them" in str(refusal.value)
    assert "eyJ" not in str(refusal.value)
    assert "c2Vj" not in str(refusal.value)


def test_a_key_file_by_flag_goes_before_a_key_in_the_environment(tmp_path: Path) -> None:
    """The key has one setting, whatever its form: the flag wins."""
    resolved = settle(
        tmp_path, environment={"PARAGON_SIGNING_KEY": KEY}, flags={"signing-key-file": "k.pem"}
    )

    assert resolved.secrets == Secrets(signing_key_file=Path("k.pem"))


def test_x1_settings_hold_no_secret(tmp_path: Path) -> None:
    """What goes into `run.json`, and what a traceback would show, is free of secrets."""
    for environment in ({"PARAGON_SIGNING_KEY": KEY}, {"PARAGON_USER_TOKEN": TOKEN}):
        found = settle(tmp_path, environment=environment)

        for text in (repr(found), str(found.secrets), repr(msgspec.to_builtins(found.settings))):
            assert "eyJ" not in text
            assert "c2Vj" not in text


def test_settings_come_back_from_a_manifest(tmp_path: Path) -> None:
    """Written as JSON and read again they are equal, so that `resume` can take them up."""
    flags = {name: value for name, (value, _, _) in EVERYTHING.items()}
    before = settle(tmp_path, flags=flags).settings
    after = msgspec.json.decode(msgspec.json.encode(before), type=Settings)

    assert after == before


@pytest.mark.parametrize("name", ["a", "2024-01-01_x.y", "A" * 64, "0"])
def test_a_run_id_is_a_plain_name(name: str) -> None:
    """Letters, digits, dots, dashes: what is a name on every file system."""
    assert check_run_id(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "-x", "a/b", "a\\b", "a b", "a\n", "A" * 65, "caf\u00e9", "~", "a\x00"],
)
def test_a_run_id_that_could_be_a_path_is_refused(name: str) -> None:
    """Nothing that could leave the runs folder, hide in it, or be taken for a flag."""
    with pytest.raises(SettingsError, match="--run-id must begin with a letter or digit"):
        check_run_id(name)


@given(
    st.dictionaries(
        st.sampled_from(sorted(EVERYTHING)),
        st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.text())),
    )
)
def test_no_value_is_an_error_of_ours(flags: dict[str, Any]) -> None:
    """Whatever is given ends as settings that can be written down, or is refused in words."""
    with contextlib.suppress(SettingsError):
        found = resolve(flags, environment={}, directory=Path("/nonexistent"))

        assert msgspec.json.encode(found.settings)
