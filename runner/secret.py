"""The types that print as stars, and the scrubber for text that comes from elsewhere.

No list of secrets is kept anywhere: a secret is known by its type, and text that nobody
typed is known by its shape.
"""

from __future__ import annotations

import hmac
import re
from typing import Final, NoReturn, Self, SupportsIndex, final

STARS: Final = "***"
"""What is shown in place of a secret, whatever its length."""


@final
class Secret:
    """A text that nothing shows: neither ``repr``, ``str``, formats, JSON nor a traceback.

    `reveal` is the only way out. Two secrets compare in constant time; a secret never
    equals a plain text. Copies are the secret itself, and pickling raises `TypeError`.
    """

    __slots__ = ("_text",)

    _text: str

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a Secret holds a str, not {type(text).__name__}")
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """Return the text itself. Keep it in no variable that a traceback could show."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({STARS})"

    def __str__(self) -> str:
        return STARS

    def __format__(self, spec: str) -> str:
        return format(STARS, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_comparable(self), _comparable(other))

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    # Without this, the inherited method would hand out the text of the slot.
    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


@final
class HiddenStr(str):
    """A plain text for a library that takes nothing else, hidden from ``repr`` and formats.

    Tracebacks with locals, futures, tasks, containers and header tables show their parts
    by ``repr``, so they show stars. ``str()``, ``print`` and ``+`` give the text itself:
    an HTTP client needs that to send it. Never log one.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{STARS}'"

    def __format__(self, spec: str) -> str:
        return format(STARS, spec)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a HiddenStr cannot be pickled")


# Each pattern consumes what it looks at, so the time grows with the text's length only.
_WORD = re.compile(r"[A-Za-z0-9_.=-]+")
_BEARER = re.compile(r"(bearer(?:%20|[\s:=])+[\"'\\]*)[^\s\"'\\]+", re.IGNORECASE)
_HEAD = r"(?:-----)?BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY"
_WHOLE_KEY = re.compile(
    rf"{_HEAD}(?:(?!BEGIN )[\s\S])*?END (?:[A-Z0-9]{{1,20}} ){{0,3}}PRIVATE KEY(?:-----)?"
)
# A key that was cut off: everything up to a character that no key and no line break holds.
_CUT_KEY = re.compile(rf"{_HEAD}(?:[A-Za-z0-9+/=\s:,.-]|\\+[rnt])*")


def scrub(text: str) -> str:
    """Return *text* with stars for tokens, for what follows "Bearer", and for private keys.

    The last step before a log line or an error text leaves. It goes by shape alone, takes
    time in proportion to the text, and changes nothing when it is applied twice.
    """
    has_bearer = "bearer" in text.lower()
    if "eyJ" not in text and "PRIVATE KEY" not in text and not has_bearer:
        return text
    if "PRIVATE KEY" in text:
        text = _CUT_KEY.sub(STARS, _WHOLE_KEY.sub(STARS, text))
    if has_bearer:
        text = _BEARER.sub(rf"\1{STARS}", text)
    return _WORD.sub(_without_token, text)


def _without_token(word: re.Match[str]) -> str:
    before, start, rest = word[0].partition("eyJ")
    return before + STARS if start and rest.count(".") >= 2 else word[0]


def _comparable(secret: Secret) -> bytes:
    # Text from the environment may hold bytes that are no UTF-8, as lone surrogates.
    return secret.reveal().encode("utf-8", "surrogatepass")
