"""What a server does with a token: the simulator's half."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, NoReturn, SupportsIndex, final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from runner.secret import STARS


class _Checked(NamedTuple):
    sub: str
    iat: float
    exp: float


@final
class TokenChecker:
    """Call it with a token's text: returns the user it speaks for, or None if it must not.

    Takes RS256 only, signed with the private half of *public_pem*, meant for *audience*,
    issued not after and expiring not before *now*, give or take *leeway_s*.
    Raises `ValueError` if *public_pem* is no RSA public key.
    """

    __slots__ = ("_audience", "_key", "_leeway_s", "_now", "_signed")

    def __init__(
        self,
        public_pem: bytes,
        audience: str,
        now: Callable[[], float] = time.time,
        *,
        leeway_s: float = 0.0,
    ) -> None:
        key = load_pem_public_key(public_pem)
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("public_pem is not an RSA public key")
        self._key = key
        self._audience = audience
        self._now = now
        self._leeway_s = leeway_s
        # A token comes with many requests, and what it says does not change.
        self._signed = lru_cache(maxsize=10_000)(self._checked)

    def __call__(self, token: str) -> str | None:
        """Return the token's ``sub`` if it is good now, else None. Never raises."""
        checked = self._signed(token)
        if checked is None:
            return None
        now = self._now()
        timely = checked.iat <= now + self._leeway_s and now - self._leeway_s < checked.exp
        return checked.sub if timely else None

    def __repr__(self) -> str:
        return f"TokenChecker({STARS})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a TokenChecker cannot be pickled or copied")

    def _checked(self, token: str) -> _Checked | None:
        """Return what a well-signed token says, whenever it is good."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["RS256"],
                audience=self._audience,
                # Its times are judged by our own clock, which a test can set.
                options={
                    "require": ["sub", "aud", "iat", "exp"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        sub, iat, exp = claims["sub"], claims["iat"], claims["exp"]
        if not sub or not all(type(moment) in (int, float) for moment in (iat, exp)):
            return None
        return _Checked(sub, iat, exp)
