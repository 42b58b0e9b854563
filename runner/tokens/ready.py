"""A user token that was brought along instead of a signing key."""

from __future__ import annotations

import re
from typing import Final, NoReturn, SupportsIndex, final

import jwt

from runner.errors import SettingsError
from runner.secret import STARS, HiddenStr, Secret

_BRING = "Put one Paragon User Token there, or unset it and give a signing key."
_EMPTY: Final = f"is empty. {_BRING}"
_KEY: Final = f"holds a key, not a token. A key belongs in PARAGON_SIGNING_KEY. {_BRING}"
_LINES: Final = f"holds several lines, but a token is one. {_BRING}"
_CONTROL: Final = f"holds a control character, which no token has. {_BRING}"
_NOT_ASCII: Final = f"holds a character that is not ASCII, which no token has. {_BRING}"
_BLANK: Final = f"holds a blank inside, which no token has. {_BRING}"
_OTHER: Final = f"holds a sign that no token has: letters, digits and -._~+/= only. {_BRING}"

_PREFIX = re.compile(r"bearer(?:\s+|\Z)", re.IGNORECASE)
_WRAPPING = " \t\r\n\"'\ufeff"
# RFC 6750 section 2.1: what may stand after "Bearer ".
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")

_FAR_FUTURE_S: Final = 1e12
"""No expiry lies beyond; larger numbers are nonsense, or milliseconds."""


@final
class ReadyToken:
    """One ready-made token, handed out for whichever user is asked for.

    *text* may have blanks and quotes around it and a leading "Bearer ". Raises
    `SettingsError`, naming *origin* but never the text, if no token can look like that.
    """

    __slots__ = ("_expires_at", "_header")

    def __init__(self, text: Secret, *, origin: str = "PARAGON_USER_TOKEN") -> None:
        found = _token(text)
        if isinstance(found, str):
            raise SettingsError(f"{origin} {found}")
        self._header = HiddenStr("Bearer " + found.reveal())
        self._expires_at = _expiry(found)

    @property
    def renewable(self) -> bool:
        """False: there is no other token, so a 401 is final."""
        return False

    @property
    def expires_at(self) -> float | None:
        """When the token says that it ends, in seconds since the epoch; None if it says nothing.

        Its signature is not checked, so use this only to refuse a token, never to trust one.
        """
        return self._expires_at

    def header(self, user_id: str) -> str | None:
        """Return the token's header; the same for every user."""
        return self._header

    def foresee(self, user_id: str) -> None:
        """Do nothing: the token is at hand."""

    async def mint(self, user_id: str) -> str:
        """Return the token's header: there is no other."""
        return self._header

    def discard(self, user_id: str, header: str) -> None:
        """Do nothing: there is no other token."""

    def learn_server_time(self, date_header: str) -> bool:
        """Return False: whoever made the token went by another clock."""
        return False

    def close(self) -> None:
        """Do nothing: the token is the caller's."""

    def __repr__(self) -> str:
        return f"ReadyToken({STARS})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a ReadyToken cannot be pickled or copied")


def _token(text: Secret) -> Secret | str:
    """Return the bare token, or what is wrong, as the end of a sentence."""
    text = Secret(_PREFIX.sub("", text.reveal().strip(_WRAPPING), count=1).strip(_WRAPPING))
    if not text.reveal():
        return _EMPTY
    if "-----BEGIN" in text.reveal():
        return _KEY
    if len(text.reveal().splitlines()) > 1:
        return _LINES
    if not text.reveal().isascii():
        return _NOT_ASCII
    if not text.reveal().isprintable():
        return _CONTROL
    if " " in text.reveal():
        return _BLANK
    return text if _TOKEN.fullmatch(text.reveal()) else _OTHER


def _expiry(token: Secret) -> float | None:
    try:
        claims = jwt.decode(token.reveal(), options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    expires_at = claims.get("exp")
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float):
        return None
    return float(expires_at) if 0 <= expires_at < _FAR_FUTURE_S else None
