"""Digests that are cheap to keep: a multiset hash, the sum mod 2^256 of BLAKE2b-256 over entries.

Addition commutes, so the order in which entries came does not matter (I4), and one entry is added or taken away
without touching the others.
"""

from hashlib import blake2b

_int_from_bytes = int.from_bytes
_MODULUS_MASK = (1 << 256) - 1


def hash_entry(table: bytes, key: bytes, value: bytes) -> int:
    """Hash of one entry; the lengths keep (ab, c) and (a, bc) apart."""
    entry = b"".join((table, len(key).to_bytes(4, "big"), key, value))
    return _int_from_bytes(blake2b(entry, digest_size=32).digest(), "big")


def hash_bytes(entry: bytes) -> int:
    """Hash of an entry laid out as above by the caller."""
    return _int_from_bytes(blake2b(entry, digest_size=32).digest(), "big")


def digest_of(total: int) -> bytes:
    """Of a sum of hashes, however large or negative it has become."""
    return (total & _MODULUS_MASK).to_bytes(32, "big")


class Multiset:
    """Running digest of a set of entries."""

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum = 0

    def copy(self) -> "Multiset":
        other = Multiset()
        other._sum = self._sum
        return other

    def add(self, entry_hash: int) -> None:
        self._sum = (self._sum + entry_hash) & _MODULUS_MASK

    def remove(self, entry_hash: int) -> None:
        self._sum = (self._sum - entry_hash) & _MODULUS_MASK

    def digest(self) -> bytes:
        """32 bytes; 32 zero bytes for no entries."""
        return digest_of(self._sum)
