"""Who asks to append alone for a while, as it stands in the key `turn`. PURE.

Easy to get wrong: whatever stands there, nothing fails by it. What cannot be read asks for nothing.
"""

from __future__ import annotations

from typing import NamedTuple

_MOST_MS = 999_999_999


class Asked(NamedTuple):
    """`number`: a writer that asks again has another one."""

    writer: str
    number: int
    slot_ms: int

    def encode(self) -> bytes:
        return f"{self.writer} {self.number} {self.slot_ms}".encode()


def decode_asked(value: bytes) -> Asked | None:
    """None for what no writer of ours has written."""
    words = value.decode(errors="replace").split(" ")
    if len(words) != 3 or not words[0] or not all(each.isascii() and each.isdecimal() for each in words[1:]):
        return None
    writer, number, slot_ms = words
    return Asked(writer, int(number[-18:]), int(slot_ms) if len(slot_ms) < 10 else _MOST_MS)
