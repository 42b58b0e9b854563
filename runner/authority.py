"""As whom requests are sent: the source of tokens that the settings ask for."""

from __future__ import annotations

import time
from collections.abc import Callable

from runner.errors import SettingsError
from runner.log import stamp
from runner.settings import SIGNING_KEY_VARIABLE, USER_TOKEN_VARIABLE, Secrets, Settings
from runner.tokens import (
    ReadyToken,
    Tokens,
    TokenSource,
    key_file_warning,
    load_signing_key,
    read_key_file,
)


def token_source(
    secrets: Secrets, settings: Settings, *, warn: Callable[[str], None]
) -> TokenSource:
    """Return where tokens come from. Raises `SettingsError` when that cannot be."""
    if secrets.user_token is not None:
        ready = ReadyToken(secrets.user_token)
        if ready.expires_at is not None and ready.expires_at <= time.time():
            raise SettingsError(
                f"{USER_TOKEN_VARIABLE} expired at {stamp(ready.expires_at)}; get a new one"
            )
        return ready
    if secrets.signing_key is not None:
        key = load_signing_key(secrets.signing_key, origin=SIGNING_KEY_VARIABLE)
    elif secrets.signing_key_file is not None:
        text = read_key_file(secrets.signing_key_file)
        key = load_signing_key(text, origin=str(secrets.signing_key_file))
        if warning := key_file_warning(secrets.signing_key_file):
            warn(warning)
    else:
        raise SettingsError(
            "there is no key to make tokens with; name its file with --signing-key-file, put it "
            f"into {SIGNING_KEY_VARIABLE}, or a ready-made token into {USER_TOKEN_VARIABLE}"
        )
    if settings.audience is None:
        raise SettingsError(
            "a token needs its audience; give --project-id (PARAGON_PROJECT_ID), or --audience"
        )
    return Tokens(key, audience=settings.audience, renew_ahead_s=max(60.0, settings.timeout_s + 30))


def speaks_for(tokens: TokenSource, users: int) -> None:
    """Make sure that *tokens* can speak for so many *users*. Raises `SettingsError`."""
    if not tokens.renewable and users > 1:
        raise SettingsError(
            f"the input names {users:,} users, but {USER_TOKEN_VARIABLE} speaks for one; "
            "split the input by user, or use a signing key"
        )
