"""A file that is whole or is found out: what it says of itself, items of bytes, and digests over both.

    offset    size
    0         8      magic: what kind of file
    8         4      version of the layout
    12        4      h, length of the description
    16        8      length of the file
    24        h      description
    24 + h    32     BLAKE2b-256 of all before
    56 + h    …      items, each: length (4), bytes
    end - 32  32     BLAKE2b-256 of all before                    numbers are unsigned, big-endian

Easy to get wrong: items are given before the digest of the file was seen; only a reader who came to the end knows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

VERSION = 1
TEMPORARY_SUFFIX = ".tmp"
_HEAD = struct.Struct(">8sIIQ")
_LENGTH = struct.Struct(">I")
_DIGEST_BYTES = 32
_DESCRIPTION_BYTES_MAX = 16 << 20


class FileBroken(Exception):
    """It is not what it should be; the message says how, without naming the file."""


@dataclass(frozen=True, slots=True)
class Kind:
    magic: bytes
    word: str


def write_sealed(path: Path, kind: Kind, description: bytes, items: Iterable[bytes], items_bytes: int) -> None:
    """`items_bytes`: of all items together with their lengths, 4 each. The file is there when it is whole and on disk;
    one of that name is replaced."""
    size = _HEAD.size + len(description) + _DIGEST_BYTES + items_bytes + _DIGEST_BYTES
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            digest = blake2b(digest_size=_DIGEST_BYTES)

            def put(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            put(_HEAD.pack(kind.magic, VERSION, len(description), size))
            put(description)
            put(digest.digest())
            for item in items:
                put(_LENGTH.pack(len(item)))
                put(item)
            file.write(digest.digest())
            if file.tell() != size:
                raise ValueError(f"{file.tell()} bytes, {size} were announced")
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """The name is on disk too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def items_bytes(sizes: Iterable[int]) -> int:
    return sum(_LENGTH.size + size for size in sizes)


def read_description(path: Path, kind: Kind) -> bytes:
    """Raises FileBroken, also where the file has not the length that it should have."""
    with _opened(path) as file:
        return _read_head(file, kind, blake2b(digest_size=_DIGEST_BYTES))


def read_items(path: Path, kind: Kind) -> Iterator[bytes]:
    """Raises FileBroken, at the latest after the last item."""
    with _opened(path) as file:
        digest = blake2b(digest_size=_DIGEST_BYTES)
        _read_head(file, kind, digest)
        left = os.fstat(file.fileno()).st_size - file.tell() - _DIGEST_BYTES
        while left > 0:
            head = file.read(_LENGTH.size)
            length = _LENGTH.unpack(head)[0] if left >= _LENGTH.size == len(head) else left
            left -= _LENGTH.size + length
            if left < 0:
                raise FileBroken("an item runs over its end: its bytes were changed")
            item = file.read(length)
            digest.update(head)
            digest.update(item)
            yield item
        if file.read(_DIGEST_BYTES) != digest.digest():
            raise FileBroken("its digest does not match: its bytes were changed")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise FileBroken(f"cannot be read: {error.strerror}") from error


def _read_head(file: BinaryIO, kind: Kind, digest: blake2b) -> bytes:
    size = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise FileBroken(f"truncated: it has {size} bytes")
    magic, version, length, expected = _HEAD.unpack(head)
    if magic != kind.magic:
        raise FileBroken(f"it is no {kind.word}: it begins with {magic!r}")
    if version != VERSION:
        raise FileBroken(f"it has version {version}, this program reads version {VERSION}")
    if size < expected:
        raise FileBroken(f"truncated: it has {size} of {expected} bytes")
    if size > expected:
        raise FileBroken(f"it has {size} bytes, it should have {expected}")
    if length > min(size, _DESCRIPTION_BYTES_MAX):
        raise FileBroken("its description runs over its end: its bytes were changed")
    description = file.read(length)
    digest.update(head)
    digest.update(description)
    seal = digest.digest()
    if file.read(_DIGEST_BYTES) != seal:
        raise FileBroken("the digest of its description does not match: its bytes were changed")
    digest.update(seal)
    return description


def remove_leftovers(directory: Path) -> list[Path]:
    """Temporary files of writers that are no more. A living one holds a lock on his."""
    removed = []
    for path in sorted(directory.glob(f".*{TEMPORARY_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed
