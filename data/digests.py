"""Digests of bytes, and numbers for them in the order in which they come.

A dict would take two hundred bytes for each, this takes 24 to 40.
"""

from array import array
from collections.abc import Iterator
from hashlib import blake2b

SIZE = 16  # bytes of a digest


def digest(*parts: bytes | memoryview) -> bytes:
    """Return 16 bytes that stand for `parts`; where one ends and the next begins counts."""
    hashed = blake2b(digest_size=SIZE)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.digest()


class Digests:
    """Digests -> 0, 1, 2, ...: a hash table with open addressing in flat arrays.

    A digest is random already, so its first bytes say where to look; where another digest is there, the next free slot
    is taken. A slot holds a number, and the number is the place among the digests, which stand one behind the other.
    """

    def __init__(self):
        self._digests = bytearray()
        self._slots = array("i", [-1]) * 2**10  # a power of two, at most half of them taken

    def __len__(self) -> int:
        return len(self._digests) // SIZE

    def __contains__(self, key: bytes) -> bool:
        return self._slots[self._slot(key)] >= 0

    def __iter__(self) -> Iterator[bytes]:
        return (bytes(self._digests[start : start + SIZE]) for start in range(0, len(self._digests), SIZE))

    def number(self, key: bytes) -> int:
        """Return the number of a digest; a new one gets the next number."""
        slot = self._slot(key)
        if self._slots[slot] < 0:
            self._slots[slot] = len(self)
            self._digests += key
            if 2 * len(self) > len(self._slots):
                self._grow()
                return len(self) - 1
        return self._slots[slot]

    def _slot(self, key: bytes) -> int:
        """Return the slot where `key` is, or where it would go."""
        mask = len(self._slots) - 1
        slot = int.from_bytes(key[:8], "little") & mask
        while (number := self._slots[slot]) >= 0 and self._digests[SIZE * number : SIZE * (number + 1)] != key:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._slots = array("i", [-1]) * (4 * len(self._slots))
        for number in range(len(self)):
            self._slots[self._slot(bytes(self._digests[SIZE * number : SIZE * (number + 1)]))] = number
