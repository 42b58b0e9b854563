"""What every job has to promise, whoever wrote it, and how a job of another package is found.

`EXAMPLE` below is such a package, whole: a module with a `SyncJob`, and one line of metadata that
names it under the entry-point group ``syncshift.jobs``. In a `pyproject.toml` that line reads::

    [project.entry-points."syncshift.jobs"]
    label-syncs = "acme_jobs:LabelSyncs"

Installed next to Syncshift, ``syncshift run label-syncs INPUT`` works, and the module's docstring
is its help. Whoever writes a job runs the tests called ``contract`` on it.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runner
from runner.errors import SettingsError
from runner.job import (
    CREDENTIAL,
    FREQUENCY,
    SYNC_STATE,
    Job,
    available,
    find,
    foreign_fields,
    help_text,
)
from runner.model import Change, Field, Intent, Response, Row, Sighting, State
from runner.undo import row_of

OLD = "0aea7d3a-b5f7-4488-890e-d51a5cf4f8f1"
NEW = "11111111-2222-4333-8444-aaaaaaaaaaaa"

BUILT_IN = (
    "change-frequency",
    "disable-syncs",
    "enable-syncs",
    "migrate-credentials",
    "update-syncs",
)

EXAMPLE = {
    "acme_jobs.py": '''
"""Give syncs a label.

Each row names a sync, its user, and the label that it is to have: one word of
small letters. A sync that has the label already is left alone.
"""

from runner import Field, SyncJob

LABEL = Field(
    name="label",
    api_name="displayLabel",
    pattern="[A-Za-z]{1,20}",
    rule="must be one word of at most 20 letters",
    lower=True,
)


class LabelSyncs(SyncJob):
    """Owns the label of a sync."""

    name = "label-syncs"
    owns = (LABEL,)
''',
    "acme_jobs-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-jobs\nVersion: 1.0\n",
    "acme_jobs-1.0.dist-info/entry_points.txt": (
        "[syncshift.jobs]\nlabel-syncs = acme_jobs:LabelSyncs\n"
    ),
}


Install = Callable[[Mapping[str, str]], None]


def lay_out(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of an installed package into *folder*."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Installs a package for the length of a test."""
    before = set(sys.modules)

    def put(files: Mapping[str, str]) -> None:
        lay_out(tmp_path, files)
        sys.path.insert(0, str(tmp_path))
        importlib.invalidate_caches()
        available.cache_clear()

    yield put
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]
    for name in set(sys.modules) - before:
        del sys.modules[name]
    available.cache_clear()


@pytest.fixture(params=[*BUILT_IN, "label-syncs"])
def job(request: pytest.FixtureRequest, install: Install) -> Job:
    """Each job in turn: those that come with Syncshift, and one of another package."""
    install(EXAMPLE)
    return find(request.param)


def value(field: Field, *, other: bool = False) -> str:
    """Return one of two values that a field may have."""
    examples = {
        "credential_id": (OLD, NEW),
        "frequency": ("1h", "24h"),
        "sync_state": ("disabled", "enabled"),
    }
    return examples.get(field.name, ("abc", "xyz"))[other]


def state(job: Job, *, other: bool = False) -> dict[str, str]:
    """Return one of two states that a job may want."""
    return {field.name: value(field, other=other) for field in job.owns}


def change(job: Job, desired: State, *, expected: State | None = None) -> Change:
    """Return what *job* makes of a row."""
    wanted = {f"expected_{name}": told for name, told in (expected or {}).items()}
    return job.parse(Row(7, 9, {"sync_id": "s/1", "user_id": "org:42", **desired, **wanted}))


def told(job: Job, values: State, **more: Any) -> Response:
    """Return a read's answer that tells *values*."""
    body = {field.api_name: values[field.name] for field in job.owns if field.name in values}
    if SYNC_STATE.name in values:
        # Told with everything else that the status says.
        body["status"] = "DISABLED" if values[SYNC_STATE.name] == "disabled" else "RATE_LIMITED"
    return Response(200, json.dumps({"id": "s/1", "status": "ACTIVE", **body, **more}).encode())


def patches(job: Job) -> bool:
    """Whether what is desired stands in the body of a PATCH, which repeats it."""
    return job.write(change(job, state(job))).method == "PATCH"


def echo(job: Job, values: State, *, sync_id: str = "s/1") -> Response:
    """Return a write's answer that speaks of *values*."""
    data = {field.api_name: values[field.name] for field in job.owns if field.name in values}
    return Response(200, json.dumps({"id": sync_id, "data": data}).encode())


class TestContract:
    """What the engine relies on with every job; select these with ``-k contract``."""

    def test_contract_it_has_a_name_that_can_be_typed(self, job: Job) -> None:
        """Small words joined by dashes, under which it is found, and a text that explains it."""
        first_line = help_text(job).splitlines()[0]

        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", job.name)
        assert find(job.name) is job
        assert isinstance(job, runner.Job)
        assert first_line.endswith(".")
        assert len(first_line) <= 80

    def test_contract_it_owns_fields_that_can_be_told_apart(self, job: Job) -> None:
        """Each field has its names, a pattern, and a rule in words; none is a name of a row's."""
        names = [n for f in job.owns for n in (f.name, f.api_name, f.expected_name)]

        assert job.owns
        assert len({*names}) >= 2 * len(job.owns)
        assert not {*names} & {"sync_id", "syncId", "user_id", "userId", "id", "status"}
        for field in job.owns:
            assert field.rule.startswith("must be ")
            assert not field.accepts("")
            assert field.accepts(value(field))
            assert field.accepts(field.fold(value(field)))
            assert not field.name.startswith("syncshift_")

    def test_contract_a_row_becomes_a_change(self, job: Job) -> None:
        """The desired and the expected state are taken from the row, and nothing is made up."""
        made = change(job, state(job), expected=state(job, other=True))
        plain = change(job, state(job))
        without_user = job.parse(Row(1, 2, {"sync_id": "a", **state(job)}))

        assert made == Change(7, 9, "s/1", "org:42", state(job), state(job, other=True))
        assert plain.expected is None
        assert without_user.user_id == ""

    def test_contract_a_blank_field_is_left_as_it_is(self, job: Job) -> None:
        """A row that names one field asks for that one alone, in what is sent as well."""
        for field in job.owns:
            one = change(job, {field.name: value(field)})

            assert one.desired == {field.name: value(field)}
            if patches(job):
                assert json.loads(job.write(one).body or b"") == {field.api_name: value(field)}

    def test_contract_the_same_question_has_the_same_answer(self, job: Job) -> None:
        """A job keeps no state and changes nothing that it is given."""
        row = Row(7, 9, {"sync_id": "s/1", "user_id": "org:42", **state(job)})
        before = (dict(vars(job)), dict(row.fields))
        answers = [
            (
                job.parse(row),
                job.read(made),
                job.write(made),
                job.observe(told(job, state(job))),
                job.sight(told(job, state(job))),
                job.echoes(made, echo(job, state(job))),
                job.verify(made, state(job)),
                job.inverse(made, state(job, other=True)),
                job.starts_resync(made, None),
            )
            for made in [change(job, state(job))] * 2
        ]

        assert answers[0] == answers[1]
        assert (dict(vars(job)), dict(row.fields)) == before

    def test_contract_reading_changes_nothing(self, job: Job) -> None:
        """The present state is asked for with a GET of that sync; the id is one whole segment."""
        request = job.read(change(job, state(job)))

        assert request.method == "GET"
        assert request.body is None
        assert "s/1" in request.segments

    def test_contract_writing_is_absolute(self, job: Job) -> None:
        """What is sent names the sync and the values themselves, whatever they were before."""
        made = change(job, state(job), expected=state(job, other=True))
        request = job.write(made)

        assert "s/1" in request.segments
        assert request == job.write(change(job, state(job)))
        assert request != job.write(change(job, state(job, other=True)))
        if patches(job):
            assert json.loads(request.body or b"") == {f.api_name: value(f) for f in job.owns}
        else:
            assert (request.method, request.body) == ("POST", None)

    def test_contract_what_is_told_is_observed(self, job: Job) -> None:
        """Owned fields come back by the input's names, in the form in which they are compared."""
        for other in (False, True):
            wanted = state(job, other=other)
            assert job.observe(told(job, wanted, extra={"a": [1]})) == wanted

        loud = {f.name: value(f).upper() if f.lower else value(f) for f in job.owns}
        assert job.observe(told(job, loud)) == state(job)

    @pytest.mark.parametrize("nothing", [None, "", 7, True, [], {}, ["1h"]])
    def test_contract_what_is_not_told_is_absent(self, job: Job, nothing: object) -> None:
        """A field that is missing, null, empty or of a strange kind is not guessed at."""
        strange = {field.api_name: nothing for field in job.owns}

        assert job.observe(Response(200, json.dumps(strange).encode())) == {}
        assert job.observe(Response(200, b"{}")) == {}

    @pytest.mark.parametrize(
        "body",
        [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff", b'{"a":"\xff"}', b"<html>", b"[" * 9999],
    )
    def test_contract_what_cannot_be_understood_is_none(self, job: Job, body: bytes) -> None:
        """An answer that is no object tells nothing, and is no echo of anything.

        Only where no answer is promised at all may there be none.
        """
        assert job.observe(Response(200, body)) is None
        if body or patches(job):
            assert job.echoes(change(job, state(job)), Response(200, body)) is False

    def test_contract_an_echo_speaks_of_this_change(self, job: Job) -> None:
        """The id must be this sync's, and no value another one; what is not said is let pass."""
        made = change(job, state(job))
        loud = {f.name: value(f).upper() if f.lower else value(f) for f in job.owns}

        assert job.echoes(made, echo(job, state(job)))
        assert job.echoes(made, echo(job, loud))
        assert job.echoes(made, echo(job, {}))
        assert not job.echoes(made, echo(job, state(job), sync_id="s/2"))
        assert not job.echoes(made, Response(200, b'{"id":7,"data":{}}'))
        if not patches(job):
            return
        for field in job.owns:
            wrong = {**state(job), field.name: value(field, other=True)}
            assert not job.echoes(made, echo(job, wrong))
            strange = {"id": "s/1", "data": {field.api_name: 7}}
            assert not job.echoes(made, Response(200, json.dumps(strange).encode()))
        for body in (
            b'{"id":"s/1"}',
            b'{"data":{}}',
            b'{"id":"s/1","data":7}',
        ):
            assert not job.echoes(made, Response(200, body))

    def test_contract_a_field_that_was_not_asked_for_is_no_business_of_the_echo(
        self, job: Job
    ) -> None:
        """What a row left as it is may be told with any value."""
        for field in job.owns:
            one = change(job, {field.name: value(field)})
            others = state(job, other=True)

            assert job.echoes(one, echo(job, {**others, field.name: value(field)}))

    def test_contract_what_is_in_force_is_told_from_what_is_not(self, job: Job) -> None:
        """True, False, or None when the API does not say; what differs outweighs what is silent."""
        made = change(job, state(job))

        assert job.verify(made, state(job)) is True
        assert job.verify(made, {**state(job), "more": "x"}) is True
        assert job.verify(made, state(job, other=True)) is False
        assert job.verify(made, {}) is None
        for field in job.owns:
            partly = {field.name: value(field)}
            differing = {field.name: value(field, other=True)}
            assert job.verify(made, partly) is (True if len(job.owns) == 1 else None)
            assert job.verify(made, differing) is False

    def test_contract_what_was_done_can_be_undone(self, job: Job) -> None:
        """The inverse restores what was, only from what was written, and undoes itself."""
        made = change(job, state(job))
        back = job.inverse(made, {**state(job, other=True), "more": "x"})

        assert back == Change(7, 9, "s/1", "org:42", state(job, other=True), state(job))
        assert back is not None
        assert job.verify(back, state(job, other=True)) is True
        again = job.inverse(back, state(job))
        assert again is not None
        assert again.desired == made.desired

    def test_contract_a_rollback_writes_what_is_read_as_the_inverse(self, job: Job) -> None:
        """The row that a rollback writes for a change is parsed as exactly its inverse."""
        made = change(job, state(job))
        before = state(job, other=True)
        intent = Intent(
            row=7,
            line=9,
            sync_id=made.sync_id,
            user_id=made.user_id,
            before=before,
            seen=None,
            desired=made.desired,
            timestamp="",
        )
        cells = row_of(before, intent, owned=job.owns, job=job, row=7)
        names = [f.name for f in job.owns] + [f.expected_name for f in job.owns]
        told = zip(("sync_id", "user_id", *names), map(str, cells), strict=False)
        row = Row(7, 9, {name: cell for name, cell in told if cell})

        assert cells[-1] == ""
        assert job.parse(row) == job.inverse(made, before)

    def test_contract_what_was_not_read_cannot_be_undone(self, job: Job) -> None:
        """Without the value that a field had, no other one is put in its place."""
        made = change(job, state(job))

        assert job.inverse(made, {}) is None
        for field in job.owns:
            missing = {n: told for n, told in state(job).items() if n != field.name}
            assert job.inverse(made, missing) is None
            one = change(job, {field.name: value(field)})
            back = job.inverse(one, {field.name: value(field, other=True)})
            assert back is not None
            assert back.desired == {field.name: value(field, other=True)}

    def test_contract_a_resync_is_foreseen(self, job: Job) -> None:
        """A changed credential starts one, or may; nothing else that is owned does."""
        made = change(job, state(job))
        moves = CREDENTIAL in job.owns

        assert job.starts_resync(made, None) is moves
        assert job.starts_resync(made, {}) is moves
        assert job.starts_resync(made, state(job, other=True)) is moves
        assert job.starts_resync(made, state(job)) is False

    @pytest.mark.parametrize(
        ("more", "status", "records", "last"),
        [
            ({}, "ACTIVE", None, None),
            ({"status": "idle"}, "IDLE", None, None),
            ({"status": None}, None, None, None),
            ({"status": 7}, None, None, None),
            ({"status": "Brand_New"}, "BRAND_NEW", None, None),
            ({"summary": {"totalRecords": 7, "lastSyncedAt": "t"}}, "ACTIVE", 7, "t"),
            ({"summary": {"totalRecords": "7", "lastSyncedAt": 7}}, "ACTIVE", None, None),
            ({"summary": {"totalRecords": True}}, "ACTIVE", None, None),
            ({"summary": {"totalRecords": 7.5}}, "ACTIVE", None, None),
            ({"summary": [7]}, "ACTIVE", None, None),
            ({"summary": None}, "ACTIVE", None, None),
        ],
    )
    def test_contract_what_else_is_told_is_seen(
        self,
        job: Job,
        more: dict[str, Any],
        status: str | None,
        records: int | None,
        last: str | None,
    ) -> None:
        """Status, record count and last sync; whatever is missing or strange is None."""
        seen = job.sight(told(job, {}, **more))

        assert (seen.status, seen.total_records, seen.last_synced_at) == (status, records, last)


# ------------------------------------------------------------------------------ pausing a sync


def test_a_row_that_says_nothing_asks_for_what_the_job_is_for() -> None:
    """A sync and its user are enough; a column may still say it, as in a rollback."""
    row = Row(7, 9, {"sync_id": "s/1", "user_id": "org:42"})

    assert find("disable-syncs").parse(row).desired == {"sync_state": "disabled"}
    assert find("enable-syncs").parse(row).desired == {"sync_state": "enabled"}
    told_so = Row(7, 9, {**row.fields, "sync_state": "enabled"})
    assert find("disable-syncs").parse(told_so).desired == {"sync_state": "enabled"}


def test_a_pause_is_asked_for_at_its_own_address() -> None:
    """Not with a PATCH: each state has a path of its own, and no body."""
    job = find("disable-syncs")

    assert job.write(change(job, {"sync_state": "disabled"})).segments == (
        "api",
        "syncs",
        "s/1",
        "disable",
    )
    assert job.write(change(job, {"sync_state": "enabled"})).segments[-1] == "reenable"


def test_an_answer_to_a_pause_may_be_empty() -> None:
    """The reference shows no body; one that names a sync must name this one."""
    job = find("disable-syncs")
    made = change(job, {"sync_state": "disabled"})

    for body in (b"", b" ", b"{}", b'{"id":"s/1"}'):
        assert job.echoes(made, Response(200, body))
    assert not job.echoes(made, Response(200, b'{"id":"s/2"}'))
    assert not job.echoes(made, Response(200, b"<html>"))


def test_an_errored_sync_is_neither_paused_nor_not() -> None:
    """It can be paused or started, but nobody can put it back; starting it is a change."""
    job = find("enable-syncs")
    errored = job.observe(Response(200, b'{"status":"ERRORED"}'))
    starting = change(job, {"sync_state": "enabled"})

    assert errored == {"sync_state": "errored"}
    assert job.verify(starting, errored) is False
    assert job.starts_resync(starting, errored) is True
    assert job.inverse(starting, errored) is None
    assert not SYNC_STATE.accepts("errored")


def test_starting_a_sync_may_start_a_resync_and_pausing_it_does_not() -> None:
    """So only what is started is counted against a budget."""
    job = find("enable-syncs")
    starting, pausing = (change(job, {"sync_state": to}) for to in ("enabled", "disabled"))

    assert job.starts_resync(starting, None)
    assert job.starts_resync(starting, {"sync_state": "disabled"})
    assert not job.starts_resync(starting, {"sync_state": "enabled"})
    assert not job.starts_resync(pausing, None)
    assert not job.starts_resync(pausing, {"sync_state": "enabled"})


@pytest.mark.parametrize(
    ("name", "status", "caution"),
    [
        ("disable-syncs", "ACTIVE", None),
        (
            "disable-syncs",
            "ERRORED",
            "is ERRORED: it does not run, and could not be put back there",
        ),
        ("enable-syncs", "DISABLED", None),
        ("enable-syncs", "ERRORED", "is ERRORED: it errs again unless the cause is cured"),
        ("change-frequency", "ACTIVE", None),
        (
            "change-frequency",
            "DISABLED",
            "is DISABLED: it does not run, whatever its settings are",
        ),
        (
            "migrate-credentials",
            "ERRORED",
            "is ERRORED: a new credential may not revive it; it may have to be re-enabled",
        ),
    ],
)
def test_a_sync_that_does_not_run_is_cautioned_of(
    name: str, status: str, caution: str | None
) -> None:
    """In the words of what the job does to it."""
    job = find(name)
    made = job.parse(
        Row(7, 9, {"sync_id": "s/1", **{f.name: value(f) for f in job.owns if not job.implied}})
    )

    assert job.caution(made, {}, Sighting(status=status)) == caution


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["id", "data", "status", "summary", "credentialId", "totalRecords"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=60, deadline=None)
@given(body=st.one_of(st.binary(max_size=100), JSON.map(msgspec.json.encode)))
def test_contract_no_answer_is_an_error(name: str, body: bytes) -> None:
    """Whatever comes back, a job has an answer to every question about it."""
    job = find(name)
    made = change(job, state(job))
    observed = job.observe(Response(200, body))

    assert isinstance(job.echoes(made, Response(200, body)), bool)
    if observed is not None:
        assert job.verify(made, observed) in {True, False, None}
        assert job.sight(Response(200, body)) is not None


@pytest.mark.parametrize("name", BUILT_IN)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_contract_any_value_that_passes_its_rule_survives_the_trip(
    name: str, data: st.DataObject
) -> None:
    """From a row into a write, and from a read back, a value is the same when it is compared."""
    job = find(name)
    wanted = {
        f.name: f.fold(data.draw(st.from_regex(re.compile(f.pattern, re.ASCII), fullmatch=True)))
        for f in job.owns
    }
    made = change(job, wanted)
    read_back = told(job, wanted)
    if patches(job):
        read_back = Response(200, job.write(made).body or b"")

    assert all(f.accepts(wanted[f.name]) for f in job.owns)
    assert job.observe(read_back) == wanted
    assert job.verify(made, wanted) is True


def test_the_jobs_are_found_by_name() -> None:
    """All that come with Syncshift are there, and what each owns is known to the others."""
    assert set(BUILT_IN) <= set(available())
    assert foreign_fields(find("migrate-credentials")) == (FREQUENCY, SYNC_STATE)
    assert foreign_fields(find("change-frequency")) == (CREDENTIAL, SYNC_STATE)
    assert foreign_fields(find("update-syncs")) == (SYNC_STATE,)
    assert foreign_fields(find("disable-syncs")) == (CREDENTIAL, FREQUENCY)


def test_an_unknown_job_is_told_with_those_there_are() -> None:
    """A slip of the finger is answered with the list."""
    with pytest.raises(SettingsError, match="no job 'nope'; there are: change-frequency, disable"):
        find("nope")


def test_a_job_of_another_package_is_found(install: Install) -> None:
    """Installing a package is enough: its job is listed, and its field is foreign to the others."""
    install(EXAMPLE)
    job = find("label-syncs")

    assert set(available()) == {*BUILT_IN, "label-syncs"}
    assert help_text(job).startswith("Give syncs a label.")
    assert [f.name for f in foreign_fields(find("update-syncs"))] == ["label", "sync_state"]


def test_a_job_of_another_package_is_found_by_a_process_of_its_own(tmp_path: Path) -> None:
    """From outside, as a person would have it: a package on the path, and the job is there."""
    lay_out(tmp_path, EXAMPLE)
    code = (
        "from runner.job import find, help_text\n"
        "from runner import Change\n"
        "job = find('label-syncs')\n"
        "print(job.write(Change(1, 2, 'a', 'ann', {'label': 'hot'})).body.decode())\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(tmp_path), str(root)]}\n{code}"],
        check=True,
        capture_output=True,
        text=True,
    )

    assert done.stdout == '{"displayLabel":"hot"}\n'


def test_an_entry_may_name_a_job_instead_of_its_class(install: Install) -> None:
    """A job that is made by its package is taken as it is."""
    files = dict(EXAMPLE)
    files["acme_jobs.py"] += "\n\njob = LabelSyncs()\n"
    files["acme_jobs-1.0.dist-info/entry_points.txt"] = (
        "[syncshift.jobs]\nlabel-syncs = acme_jobs:job\n"
    )
    install(files)

    assert find("label-syncs") is sys.modules["acme_jobs"].job


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("label-syncs = acme_jobs:Missing", r"could not be loaded \(AttributeError"),
        ("label-syncs = nowhere:Job", r"could not be loaded \(ModuleNotFoundError"),
        ("label-syncs = acme_jobs:Field", r"could not be loaded \(TypeError"),
        ("other-name = acme_jobs:LabelSyncs", "is not a job of that name"),
        ("label-syncs = acme_jobs:LABEL", "is not a job of that name"),
        ("update-syncs = acme_jobs:Taken", "or the name is taken"),
    ],
)
def test_a_job_that_cannot_be_one_is_refused(install: Install, entry: str, complaint: str) -> None:
    """A broken package is named, with what is wrong; it never takes the place of another job."""
    files = dict(EXAMPLE)
    files["acme_jobs.py"] += '\n\nclass Taken(LabelSyncs):\n    name = "update-syncs"\n'
    files["acme_jobs-1.0.dist-info/entry_points.txt"] = f"[syncshift.jobs]\n{entry}\n"
    install(files)

    with pytest.raises(SettingsError, match=complaint) as refusal:
        available()
    assert repr(entry.split(" = ", maxsplit=1)[0]) in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_each_file_of_jobs_defines_one() -> None:
    """One file per job, named like it."""
    import jobs

    files = {path.stem for path in Path(jobs.__file__).parent.glob("[a-z]*.py")}

    assert files == {name.replace("-", "_") for name in BUILT_IN}
