"""The types that print as stars, and the scrubber."""

from __future__ import annotations

import copy
import json
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from runner.secret import STARS, HiddenStr, Secret, scrub

CANARY = "c4n4ry-7f3e-do-not-show"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjNG40cnkifQ.c2lnbmF0dXJlLWM0bjRyeQ"
PEM = "-----BEGIN PRIVATE KEY-----\nTUlJRWN4bjRyeQ\nY2FuYXJ5\n-----END PRIVATE KEY-----"


def shown_in_traceback(hidden: object) -> str:
    """Return the traceback of an error beside *hidden*, local variables included."""

    def failing(argument: object) -> None:
        kept = [argument, {"header": argument}]
        raise ValueError(f"{len(kept)} {argument}")

    try:
        failing(hidden)
    except ValueError as error:
        whole = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(whole.format())
    raise AssertionError


SHOWN: list[Callable[[Any], str]] = [
    repr,
    lambda s: f"{s}",
    lambda s: f"{s!r} {s!a} {s:>40}",
    "{}".format,
    lambda s: "%r" % (s,),  # noqa: UP031  # the old way of formatting must not show it either
    lambda s: repr([s, {s: s}, (s,)]),
    lambda s: repr(copy.copy(s)) + repr(copy.deepcopy([s])),
    lambda s: json.dumps({"a": repr(s)}),
]


@pytest.mark.parametrize("show", SHOWN)
@pytest.mark.parametrize("hide", [Secret, HiddenStr])
def test_x1_whatever_shows_a_secret_shows_stars(
    show: Callable[[Any], str], hide: Callable[[str], object]
) -> None:
    """Neither repr, formats, containers nor copies show a hidden text; they show stars."""
    shown = show(hide(CANARY))

    assert CANARY not in shown
    assert STARS in shown


def test_x1_str_of_a_secret_is_stars() -> None:
    """``str`` and ``%s`` show stars, at any length, the empty text included."""
    assert {str(Secret(text)) for text in ("", "x", CANARY)} == {STARS}
    assert "%s" % Secret(CANARY) == STARS  # noqa: UP031  # the old way must not show it either
    assert json.dumps(Secret(CANARY), default=str) == f'"{STARS}"'


@pytest.mark.parametrize("hide", [Secret, HiddenStr])
def test_x1_a_traceback_with_locals_shows_stars(hide: Callable[[str], object]) -> None:
    """Arguments and local variables that hold a hidden text are printed as stars."""
    shown = shown_in_traceback(hide(CANARY))

    assert CANARY not in shown
    assert STARS in shown


@pytest.mark.parametrize("hide", [Secret, HiddenStr])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_x1_pickling_is_refused(hide: Callable[[str], object], protocol: int) -> None:
    """A hidden text cannot leave in a pickle, of any protocol."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(hide(CANARY), protocol)


@pytest.mark.parametrize("hide", [Secret, HiddenStr])
@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.to_builtins])
def test_x1_msgspec_refuses_to_encode_it(
    hide: Callable[[str], object], encode: Callable[[object], object]
) -> None:
    """An encoder that meets a hidden text raises, and its error does not hold it."""
    with pytest.raises(TypeError) as caught:
        encode({"token": hide(CANARY)})

    assert CANARY not in str(caught.value)


def test_x1_a_secret_has_no_other_way_out() -> None:
    """No dictionary of attributes, no state for copying, no way to change it."""
    secret = Secret(CANARY)

    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError, match="cannot be pickled"):
        secret.__getstate__()
    with pytest.raises(AttributeError, match="cannot be changed"):
        secret._text = "other"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del secret._text
    assert secret.reveal() == CANARY


def test_a_secret_holds_text_only() -> None:
    """Bytes are refused without being shown."""
    with pytest.raises(TypeError) as caught:
        Secret(CANARY.encode())  # type: ignore[arg-type]  # the mistake is the point

    assert str(caught.value) == "a Secret holds a str, not bytes"


def test_secrets_compare_by_their_text() -> None:
    """Same text: equal and same hash. Another text or a plain one: not equal."""
    same, surrogate = Secret(CANARY), "\udcff"

    assert Secret(CANARY) == same
    assert hash(Secret(CANARY)) == hash(same)
    assert Secret("other") != same
    assert Secret(surrogate) == Secret(surrogate)
    assert (same == CANARY) is False


def test_hidden_text_is_the_text_for_whoever_sends_it() -> None:
    """A header table takes it, hides it, and hands the text itself to the wire."""
    headers = CIMultiDict(Authorization=HiddenStr(CANARY))

    assert CANARY not in repr(headers)
    assert str(headers["Authorization"]) == CANARY
    assert HiddenStr(CANARY) == CANARY


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("", ""),
        ("a row of sync 7 failed", "a row of sync 7 failed"),
        (JWT, STARS),
        (f"token={JWT}, then", "token=***, then"),
        (f"x{JWT}.more.parts", "x***"),
        (f"a.b.{JWT}", "a.b.***"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", STARS),
        ("eyJustAWord and eyJ.one dot", "eyJustAWord and eyJ.one dot"),
        ("Authorization: Bearer abc/def+g==", "Authorization: Bearer ***"),
        ("{'Authorization': 'Bearer abc'}, 2", "{'Authorization': 'Bearer ***'}, 2"),
        ('{"h":"Bearer abc","n":1}', '{"h":"Bearer ***","n":1}'),
        ('bearer \\"abc\\" BEARER%20abc', 'bearer \\"***\\" BEARER%20***'),
        (f"before {PEM} after", "before *** after"),
        (repr(PEM), "'***'"),
        (PEM.replace("PRIVATE", "RSA PRIVATE"), STARS),
        (PEM.replace("\n", " "), STARS),
        (f"lines {PEM.splitlines()!r}", "lines ['***']"),
        ('{"k":"-----BEGIN PRIVATE KEY-----\\nTUlJ\\nYQ"}', '{"k":"***"}'),
        ("-----BEGIN PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----"),
    ],
)
def test_x1_scrub(text: str, scrubbed: str) -> None:
    """Tokens, what follows "Bearer", and private keys become stars; nothing else changes."""
    assert scrub(text) == scrubbed
    assert scrub(scrubbed) == scrubbed


@given(before=st.text(), after=st.text())
def test_x1_no_surroundings_save_a_secret(before: str, after: str) -> None:
    """Whatever stands around them, a token's signature and a key's body are gone."""
    token, key = scrub(before + JWT + after), scrub(before + PEM + after)

    assert JWT.rpartition(".")[2] not in token
    assert "TUlJRWN4bjRyeQ" not in key
    assert "Y2FuYXJ5" not in key


@pytest.mark.parametrize(
    "piece",
    ["eyJ", "eyJ.", "bearer ", "BEGIN PRIVATE KEY", "-----BEGIN PRIVATE KEY-----\\", "BEGIN A B "],
)
def test_scrub_takes_linear_time(piece: str) -> None:
    """Half a megabyte made to be slow is scrubbed at once: the text may be the server's."""
    text = piece * (500_000 // len(piece)) + " PRIVATE KEY bearer eyJ"
    start = time.process_time()
    scrub(text)

    assert time.process_time() - start < 2
