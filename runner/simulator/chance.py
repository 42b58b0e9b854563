"""Chance that depends on what is asked, never on when or in which order."""

from __future__ import annotations

import hashlib

_TOP = float(1 << 64)


def chance(*parts: object) -> float:
    """Return a number in [0, 1) that is the same for the same *parts*, in every process."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    # Rounding to 53 bits could reach 1.0 for the topmost numbers.
    return (drawn & ~0x7FF) / _TOP


def digest(*parts: object) -> bytes:
    """Return 16 bytes that are the same for the same *parts*, in every process."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()
