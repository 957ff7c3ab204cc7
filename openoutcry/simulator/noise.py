"""Seeded noise that is the same on every machine: integers mixed by splitmix64, and floats used only with + - * /.

IEEE 754 fixes those four operations to the last bit, so no result depends on a maths library, on the order of a set, or
on the salt of `hash()`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_THIRD_BITS = 21
_THIRD = (1 << _THIRD_BITS) - 1

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


def key(*names: object) -> int:
    """A 64-bit key for a stream of noise; the names are what it is for (`seed`, instrument, purpose)."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest(), "big")


def mix(stream: int | Words, index: Ints) -> Words:
    """One random 64-bit word for each index of the stream (or of a stream for each)."""
    z: Words = index.astype(np.uint64) * np.uint64(_GOLDEN) + np.asarray(stream, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    return z ^ (z >> np.uint64(31))


def mix_one(stream: int, index: int) -> int:
    """The same word as `mix` gives for that index."""
    z = (index * _GOLDEN + stream) & _WORD
    z = ((z ^ (z >> 30)) * _FIRST) & _WORD
    z = ((z ^ (z >> 27)) * _SECOND) & _WORD
    return z ^ (z >> 31)


def bell(words: Words) -> Floats:
    """Each word as a number of mean 0 and variance 1 between -3 and 3 (the sum of three uniform ones)."""
    thirds = (words & _THIRD) + ((words >> _THIRD_BITS) & _THIRD) + ((words >> 2 * _THIRD_BITS) & _THIRD)
    found: Floats = thirds.astype(np.float64) * (2.0 / (1 << _THIRD_BITS)) - 3.0
    return found


def bell_one(word: int) -> float:
    """The same number as `bell` gives for that word."""
    thirds = (word & _THIRD) + ((word >> _THIRD_BITS) & _THIRD) + ((word >> 2 * _THIRD_BITS) & _THIRD)
    return float(thirds) * (2.0 / (1 << _THIRD_BITS)) - 3.0


def share_one(word: int) -> float:
    """A word as a number in [0, 1)."""
    return (word >> 11) * (1.0 / (1 << 53))


def share(words: Words) -> Floats:
    """The same numbers as `share_one` gives for those words."""
    found: Floats = (words >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))
    return found


def waves(stream: int, first: int, count: int, octaves: Sequence[tuple[int, float]]) -> Floats:
    """Smooth noise at the whole numbers first .. first+count-1: one wave of each (length, height), added up.

    Any two calls agree where they overlap, so the noise can be asked for piece by piece.
    """
    total = np.zeros(count)
    at = np.arange(first, first + count, dtype=np.int64)
    for length, height in octaves:
        cell = at // length
        low = int(cell[0])
        knots = bell(mix(stream ^ length, np.arange(low, int(cell[-1]) + 2, dtype=np.int64))) * height
        part = (at - cell * length).astype(np.float64) / length
        ease = part * part * (3.0 - 2.0 * part)
        left = knots[cell - low]
        total += left + (knots[cell - low + 1] - left) * ease
    return total


def grow(x: Floats) -> Floats:
    """Close to e**x for small x, positive for every x and rising in (-3.4, 3.4), without a maths library."""
    half = x * 0.5
    curve = x * x * (1.0 / 12.0) + 1.0
    return (curve + half) / (curve - half)


class Kept(Generic[_K, _V]):
    """What was made, up to `most` of it; the least recently used goes first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: OrderedDict[_K, _V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, name: _K, make: Callable[[], _V]) -> _V:
        """The kept one, or what `make` returns now."""
        found = self._rows.get(name)
        if found is not None:
            self._rows.move_to_end(name)
            return found
        made = self._rows[name] = make()
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)
        return made
