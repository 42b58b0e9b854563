"""What can be seen on this machine alone: versions, key, project, folder, descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import resource
import shlex
import shutil
import stat
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from runner.authority import token_source
from runner.doctor.findings import Check, fail, ok, warn
from runner.errors import SettingsError
from runner.journal import sync_directory
from runner.log import stamp
from runner.settings import SIGNING_KEY_VARIABLE, USER_TOKEN_VARIABLE, Resolved
from runner.tokens import ReadyToken, TokenSource, key_file_warning
from runner.version import VERSION

_LIBRARIES = ("aiohttp", "cryptography", "PyJWT", "uvloop")
_OTHER_FILES = 64
"""Descriptors that are open besides connections: journals, inputs, libraries."""
_LITTLE_BYTES = 1 << 30
_SCARCE_BYTES = 64 << 20
_SLOW_S = 0.25
_BLOCK = b"syncshift doctor\n"


def versions() -> Check:
    """Tell what is installed."""
    told = [f"Syncshift {VERSION}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            told.append(f"no {name}")
    return ok("versions", ", ".join(told))


def key(resolved: Resolved) -> tuple[Check, TokenSource | None]:
    """Look at the signing key or the token; return also where tokens come from, if anywhere."""
    secrets, settings = resolved.secrets, resolved.settings
    # Whether there is an audience is another question; see `project`.
    some = msgspec.structs.replace(settings, audience=settings.audience or "none")
    try:
        tokens = token_source(secrets, some, warn=lambda _: None)
    except SettingsError as error:
        return fail("key", _seen(error), _mend(error)), None
    if isinstance(tokens, ReadyToken):
        ends = tokens.expires_at
        seen = f"a ready-made token in {USER_TOKEN_VARIABLE}"
        if ends is None:
            return warn(
                "key", f"{seen}, which does not say when it ends", "see that it lasts"
            ), tokens
        left_s = ends - time.time()
        if left_s < 3600:
            mend = "a run that takes longer stops; get a new one, or use a signing key"
            return warn("key", f"{seen}, which ends at {stamp(ends)}", mend), tokens
        return ok("key", f"{seen}, good until {stamp(ends)}"), tokens
    usable: TokenSource | None = tokens
    if settings.audience is None:
        tokens.close()
        usable = None
    where = SIGNING_KEY_VARIABLE if secrets.signing_key else str(secrets.signing_key_file)
    if secrets.signing_key_file is not None and key_file_warning(secrets.signing_key_file):
        mode = stat.S_IMODE(secrets.signing_key_file.stat().st_mode)
        path = shlex.quote(str(secrets.signing_key_file))
        seen = f"the RSA key in {where} is sound, but others can read it (mode {mode:04o})"
        return warn("key", seen, f"chmod 600 {path}"), usable
    return ok("key", f"a sound RSA key in {where}"), usable


def project(resolved: Resolved) -> Check:
    """Tell for whom tokens are made."""
    settings = resolved.settings
    if resolved.secrets.ready_made:
        return ok("project", "the token names it")
    if settings.audience is None:
        return fail(
            "project",
            "there is no project, so no token can name its audience",
            "give --project-id (PARAGON_PROJECT_ID), from the dashboard, or --audience",
        )
    if settings.project_id is None:
        return ok("project", f"tokens are for {settings.audience}")
    usual = f"useparagon.com/{settings.project_id}"
    unusual = "" if settings.audience == usual else " (set with --audience)"
    return ok("project", f"{settings.project_id}; tokens are for {settings.audience}{unusual}")


def folder(runs_dir: Path) -> Check:
    """Write, sync and lock a file where runs are to live; leave nothing behind."""
    place = runs_dir.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    what = f"{runs_dir}" if place == runs_dir.absolute() else f"{runs_dir}, to be made in {place}"
    mend = "choose another folder with --runs-dir (SYNCSHIFT_RUNS)"
    if not place.is_dir():
        return fail("folder", f"{place} is no folder", mend)
    trial = place / f".syncshift-doctor-{os.getpid()}"
    try:
        took_s = _try_writing(trial)
        free = shutil.disk_usage(place).free
    except OSError as error:
        return fail("folder", f"{what}: cannot be written to ({error.strerror})", mend)
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)
    seen = f"{what}: can be written, synced and locked; {_bytes(free)} free; a sync takes "
    seen += f"{took_s * 1000:.1f} ms"
    if free < _SCARCE_BYTES:
        return fail("folder", seen, f"make room, or {mend}")
    if free < _LITTLE_BYTES:
        return warn("folder", seen, "a run keeps about 1 KB a row; make room for a large one")
    if took_s > _SLOW_S:
        return warn("folder", seen, "the disk sets the pace of a run; a faster one makes it faster")
    if place == runs_dir.absolute() and stat.S_IMODE(place.stat().st_mode) & 0o022:
        path = shlex.quote(str(runs_dir))
        return warn("folder", f"{seen}; others can write to it", f"chmod go-w {path}")
    return ok("folder", seen)


def descriptors(concurrency: int) -> Check:
    """Compare how many files may be open with what a run needs."""
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = concurrency + _OTHER_FILES
    if most == resource.RLIM_INFINITY or most >= needed:
        told = "any number of" if most == resource.RLIM_INFINITY else f"{most:,}"
        return ok("descriptors", f"{told} open files are allowed, a run needs about {needed:,}")
    way = (
        f"ulimit -n {needed}"
        if hard == resource.RLIM_INFINITY or hard >= needed
        else f"lower --concurrency to {max(1, most - _OTHER_FILES)}, or have the limit raised"
    )
    return fail(
        "descriptors", f"{most:,} open files are allowed, a run needs about {needed:,}", way
    )


def _try_writing(trial: Path) -> float:
    """Do what a journal and a lock do; return the seconds that one sync took."""
    handle = os.open(trial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, _BLOCK)
        os.fdatasync(handle)
        sync_directory(trial.parent)
        began = time.monotonic()
        os.write(handle, _BLOCK)
        os.fdatasync(handle)
        took_s = time.monotonic() - began
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)
    return took_s


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count >> 10} KB"


def _seen(error: SettingsError) -> str:
    """Return what is wrong, without what to do about it."""
    first, end, _ = str(error).partition(". ")
    return first if end else str(error).partition("; ")[0]


def _mend(error: SettingsError) -> str:
    _, end, rest = str(error).partition(". ")
    return rest if end else str(error).partition("; ")[2] or "see the message"
