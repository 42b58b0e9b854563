"""A user's bearer token: minted when needed, renewed in time, or brought ready-made.

The only place that knows PyJWT and cryptography. `keys` reads a signing key, `minting` turns
it into tokens, `ready` stands in for it when the token was brought along, and `checking` is
the other side: what a server does with a token.
"""

from runner.tokens.checking import TokenChecker
from runner.tokens.keys import (
    SigningKey,
    key_file_warning,
    load_signing_key,
    make_demo_key,
    read_key_file,
)
from runner.tokens.minting import Tokens
from runner.tokens.ready import ReadyToken
from runner.tokens.source import TokenSource

__all__ = [
    "ReadyToken",
    "SigningKey",
    "TokenChecker",
    "TokenSource",
    "Tokens",
    "key_file_warning",
    "load_signing_key",
    "make_demo_key",
    "read_key_file",
]
