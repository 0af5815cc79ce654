"""Reading BTF, the type information in an object or of a map, as far as rows and sections of variables go.

Layout: header, types, strings. A type is {name_off, info, size_or_type} and what its kind adds; ids count from 1.
"""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST = range(1, 11)
_RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = range(11, 20)

_TRAILER = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_PER_MEMBER = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}
_SIGNED = 1 << 24
_BIG_ENDIAN = ("__be16", "__be32", "__be64")
_ALIASES = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)


class Member(NamedTuple):
    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    size_or_type: int
    members: tuple[tuple[int, int, int], ...]  # as stored; of an array its one triple
    has_bitfields: bool = False
    signed: bool = False


class Btf:
    def __init__(self, raw: bytes) -> None:
        magic, _version, _flags, header_len, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", raw)
        if magic != 0xEB9F:
            raise ValueError("not BTF of this machine's byte order")
        self._strings = raw[header_len + str_off : header_len + str_off + str_len]
        self._types: list[_Type] = [_Type("void", 0, 0, ())]
        position = header_len + type_off
        end = position + type_len
        while position < end:
            position = self._read_type(raw, position)

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _read_type(self, raw: bytes, position: int) -> int:
        name_off, info, size_or_type = struct.unpack_from("<III", raw, position)
        kind: int = info >> 24 & 0x1F
        count: int = info & 0xFFFF
        position += 12
        members: tuple[tuple[int, int, int], ...] = ()
        if kind in (_STRUCT, _UNION, _DATASEC, _ARRAY):
            number = 1 if kind == _ARRAY else count
            members = tuple((a, b, c) for a, b, c in struct.iter_unpack("<III", raw[position : position + 12 * number]))
        signed = kind == _INT and bool(struct.unpack_from("<I", raw, position)[0] & _SIGNED)
        self._types.append(_Type(self._string(name_off), kind, size_or_type, members, bool(info >> 31), signed))
        return position + _TRAILER.get(kind, 0) + _PER_MEMBER.get(kind, 0) * count

    def _size(self, number: int) -> int:
        each: _Type = self._types[number]
        if each.kind in _ALIASES:
            return self._size(each.size_or_type)
        if each.kind == _PTR:
            return 8
        if each.kind == _ARRAY:
            element, _, count = each.members[0]
            return self._size(element) * count
        return each.size_or_type

    def dtype(self, number: int, big_endian: bool = False) -> np.dtype[Any]:
        """A type as numpy has it. What has several meanings or bits (unions, bit fields, pointers) is plain bytes."""
        each = self._types[number]
        if each.kind in _ALIASES:
            return self.dtype(each.size_or_type, big_endian or each.name in _BIG_ENDIAN)
        if each.kind in (_INT, _ENUM, _ENUM64):
            return np.dtype(f"{'>' if big_endian else '<'}{'i' if each.signed else 'u'}{each.size_or_type}")
        if each.kind == _ARRAY:
            element, _, count = each.members[0]
            return np.dtype((self.dtype(element, big_endian), (count,)))
        if each.kind == _STRUCT and not each.has_bitfields and each.members:
            names, offsets = zip(*((self._string(n), bits // 8) for n, _, bits in each.members), strict=True)
            formats = [self.dtype(member) for _, member, _ in each.members]
            fields = {"names": names, "formats": formats, "offsets": offsets, "itemsize": each.size_or_type}
            return np.dtype(fields)  # type: ignore[call-overload, no-any-return]
        return np.dtype(f"V{self._size(number)}")

    def struct_id(self, name: str) -> int:
        """Raises KeyError."""
        for number, each in enumerate(self._types):
            if each.kind == _STRUCT and each.name == name:
                return number
        raise KeyError(name)

    def struct(self, name: str) -> tuple[int, tuple[Member, ...]]:
        """Size in bytes and members. Raises KeyError."""
        for each in self._types:
            if each.kind == _STRUCT and each.name == name:
                members = (
                    Member(self._string(n), (bits & 0xFFFFFF) // 8, self._size(t)) for n, t, bits in each.members
                )
                return each.size_or_type, tuple(members)
        raise KeyError(name)

    def variables(self, section: str) -> dict[str, Member]:
        """The variables of a section, `.rodata` for example; offsets are those within it."""
        for each in self._types:
            if each.kind == _DATASEC and each.name == section:
                members = ((self._types[t].name, offset, size) for t, offset, size in each.members)
                return {name: Member(name, offset, size) for name, offset, size in members}
        return {}
