"""The slices of a run, and which row is in which: a fair sample first.

A row's place is drawn by a text, the seed, and spread evenly: whatever number of rows is
taken from the front, each integration, and each user within it, has its share of them, and
each part of the file too. The same seed and the same rows give the same waves.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b
from itertools import accumulate
from zlib import crc32

import msgspec

from runner.errors import SettingsError
from runner.settings import Settings

_MOST_WAVES = 100
_SEED_DIGITS = 16
_EXAMPLE = "--waves must be slices such as 1,1%,10%,100%"

_WORD = 0xFFFF_FFFF
_BUCKETS = 1 << 16
"""Users of one integration are told apart by a hash of so many values; two that share one are
one to the draw, which is fair all the same."""
_ROW_STEP = 0x9E37_79B9
"""The golden section of 2**32: steps of it, round and round, leave no gap that is much wider
than the others, however many were made."""
_USER_STEP = 0x6A09_E667
"""Likewise by the root of two, so that users and their rows do not fall into step."""


class Slice(msgspec.Struct, frozen=True):
    """One entry of ``--waves``."""

    rows: int | None = None
    """So many more rows."""
    percent: str | None = None
    """Up to this share of all rows; a number as text, for 0.1 is no exact number otherwise."""

    def __str__(self) -> str:
        return f"{self.rows}" if self.rows is not None else f"{self.percent}%"


class Waves(msgspec.Struct, frozen=True):
    """The slices of a run, in order."""

    slices: tuple[Slice, ...]

    @classmethod
    def parse(cls, text: str) -> Waves:
        """Read ``1,1%,10%,100%``. Raises `SettingsError`, naming the entry that is wrong."""
        slices = tuple(_slice(part.strip(), text) for part in text.split(","))
        if len(slices) > _MOST_WAVES:
            raise SettingsError(
                f"--waves has {len(slices)} slices; at most {_MOST_WAVES} can be had"
            )
        reached = Fraction(0)
        for one in slices:
            if reached >= 100:
                raise SettingsError(
                    f"--waves: {one} comes after 100%, when no row is left; got {text!r}"
                )
            if one.percent is not None:
                if Fraction(one.percent) <= reached:
                    raise SettingsError(
                        f"--waves: {one} comes after {float(reached):g}%; percents count from the "
                        f"start, so each must be more than the one before; got {text!r}"
                    )
                reached = Fraction(one.percent)
        return cls(slices)

    def sizes(self, rows: int) -> tuple[int, ...]:
        """Return how many of *rows* rows each wave has; empty waves are left out.

        What the slices do not reach is a last wave.
        """
        sizes, done = [], 0
        for one in self.slices:
            upto = done + one.rows if one.rows is not None else _share(one, rows)
            size = min(upto, rows) - done
            if size > 0:
                sizes.append(size)
                done += size
        return (*sizes, rows - done) if done < rows else tuple(sizes)

    def falls_short(self, rows: int) -> bool:
        """Tell whether the slices leave some of *rows* rows to a wave that was not asked for."""
        last = self.slices[-1]
        if last.percent is not None and Fraction(last.percent) == 100:
            return False
        reached = 0
        for one in self.slices:
            upto = reached + one.rows if one.rows is not None else _share(one, rows)
            reached = max(reached, upto)
        return reached < rows


def seeded(settings: Settings, *, sha256: str) -> Settings:
    """Return *settings* with the seed of its waves: the input's *sha256*, if nobody gave one.

    Raises `SettingsError` when its waves are none.
    """
    if settings.waves is None:
        return settings
    Waves.parse(settings.waves)
    seed = settings.seed or sha256[:_SEED_DIGITS]
    return msgspec.structs.replace(settings, seed=seed)


def _slice(part: str, text: str) -> Slice:
    found = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,6})?)%", part, re.ASCII)
    if found is None or (found[2] and Fraction(found[2]) > 100):
        raise SettingsError(f"{_EXAMPLE}: {part!r} is neither a number nor a percent; got {text!r}")
    if not Fraction(found[1] or found[2]):
        raise SettingsError(f"{_EXAMPLE}: {part} is a slice without rows; got {text!r}")
    return Slice(rows=int(found[1])) if found[1] else Slice(percent=found[2])


def _share(one: Slice, rows: int) -> int:
    """Return the cumulative share that *one* names, rounded up."""
    assert one.percent is not None  # noqa: S101  # a slice has one of the two
    part = Fraction(one.percent) * rows / 100
    return -(-part.numerator // part.denominator)


class Draw:
    """Draws rows for waves: five bytes a row, and a megabyte."""

    def __init__(self, *, seed: str, rows: int) -> None:
        """*rows*: how many the input has, whether they are drawn or not."""
        self._seed = seed.encode()
        self._places = array("I", bytes(4 * (rows + 1)))
        self._waves = bytearray(rows + 1)
        self._of_user = array("I", bytes(4 * _BUCKETS))
        """How many rows each user of each integration has had so far."""
        self._begins = array("I", bytes(4 * _BUCKETS))
        self._users = array("I", bytes(4 * _BUCKETS))
        """How many users each integration has had so far."""
        self.rows = 0
        """How many take part."""

    def add(self, row: int, *, user_id: str, integration: str = "") -> None:
        """Let *row* take part. Rows come in input order, each once."""
        family = crc32(integration.encode("utf-8", "surrogatepass")) % _BUCKETS
        user = crc32(user_id.encode("utf-8", "surrogatepass"), family) % _BUCKETS
        before = self._of_user[user]
        if not before:
            self._begins[user] = self._beginning(family)
        self._places[row] = (self._begins[user] + before * _ROW_STEP) & _WORD
        self._of_user[user] = before + 1
        self._waves[row] = 1
        self.rows += 1

    def deal(self, sizes: Sequence[int]) -> bytes:
        """Return the wave of each row, counted from 1; 0 for those that take no part.

        *sizes* is how many rows each wave has; together as many as take part.
        """
        ends = list(accumulate(sizes))
        part_of, split = self._parts(ends)
        waves, places = self._waves, self._places
        for row, drawn in enumerate(waves):
            if drawn:
                part = places[row] >> 16
                if part in split:
                    split[part].append(row)
                else:
                    waves[row] = part_of[part]
        for part, rows in split.items():
            first = part_of[part]
            for at, row in enumerate(sorted(rows, key=lambda row: (places[row], row)), first):
                waves[row] = bisect_right(ends, at) + 1
        return bytes(waves)

    def _beginning(self, family: int) -> int:
        """Return the place of a user's first row: users of one integration are spread as well."""
        digest = blake2b(family.to_bytes(4, "big") + self._seed, digest_size=4).digest()
        place = int.from_bytes(digest, "big") + self._users[family] * _USER_STEP
        self._users[family] += 1
        return place & _WORD

    def _parts(self, ends: Sequence[int]) -> tuple[array[int], dict[int, list[int]]]:
        """Return the wave of each part of all places.

        A part in which one wave ends and another begins is among the second, to be filled
        with its rows; in place of its wave then stands how many rows come before it.
        """
        many = array("I", bytes(4 * _BUCKETS))
        for drawn, place in zip(self._waves, self._places, strict=True):
            if drawn:
                many[place >> 16] += 1
        part_of = array("I", bytes(4 * _BUCKETS))
        split: dict[int, list[int]] = {}
        done = 0
        for part, count in enumerate(many):
            if count:
                first, last = (bisect_right(ends, at) + 1 for at in (done, done + count - 1))
                part_of[part] = first
                if first != last:
                    part_of[part], split[part] = done, []
                done += count
        return part_of, split
