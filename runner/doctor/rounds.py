"""All checks, in the order in which one stands on the other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from runner.api import Api
from runner.doctor import here, there
from runner.doctor.findings import Check, fail, ok
from runner.errors import FaultKind, SettingsError
from runner.model import Response
from runner.settings import FILE_NAME, Resolved, Settings
from runner.tokens import TokenSource
from runner.version import VERSION

_OF_TLS = frozenset({FaultKind.CERTIFICATE, FaultKind.TLS})


class Patient(msgspec.Struct, frozen=True):
    """What is to be looked at."""

    resolve: Callable[[], Resolved]
    """Works out the settings; raises `SettingsError`."""
    directory: Path
    """Where the settings file is looked for."""
    user: str | None = None
    """Whose syncs are read."""
    sync: str | None = None


async def examine(patient: Patient) -> AsyncIterator[Check]:
    """Yield every check as it has been made. What hangs on one that failed is left out."""
    yield here.versions()
    try:
        resolved = patient.resolve()
    except SettingsError as error:
        yield fail("settings", str(error), "mend what is named here; nothing else was looked at")
        return
    yield _settings(patient.directory)
    settings = resolved.settings
    key, tokens = here.key(resolved)
    yield key
    yield here.project(resolved)
    yield here.folder(resolved.places.runs_dir)
    yield here.descriptors(settings.concurrency)
    try:
        async for check in _at_the_host(settings, tokens, patient):
            yield check
    finally:
        if tokens is not None:
            tokens.close()


async def _at_the_host(
    settings: Settings, tokens: TokenSource | None, patient: Patient
) -> AsyncIterator[Check]:
    async with Api(
        base_url=settings.base_url,
        concurrency=settings.concurrency,
        timeout_s=settings.timeout_s,
        version=VERSION,
        trust_env=settings.trust_env,
    ) as api:
        host, answer = await there.host(api, settings)
        now_s = time.time()
        yield host
        if isinstance(answer, Response) or answer.kind in _OF_TLS:
            yield await there.tls(settings)
        if not isinstance(answer, Response):
            return
        yield there.clock(answer, now_s=now_s)
        if tokens is not None:
            yield await there.read(
                api, tokens, user=patient.user, sync=patient.sync, date=answer.date
            )


def _settings(directory: Path) -> Check:
    there_is = (directory / FILE_NAME).is_file()
    told = f"{FILE_NAME} in {directory}" if there_is else f"no {FILE_NAME} in {directory}"
    return ok("settings", f"{told}; `syncshift config show` tells where each comes from")
