"""The little of rtnetlink that clsact filters take, in the calling thread's network namespace. pyroute2 does not decode
the ids of programs, and cannot be called where an event loop runs, as the agent does at its start."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # the two hooks of a clsact qdisc, as parents of filters

_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _REPLACE, _EXCL, _DUMP, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x300, 0x400

_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info
_ATTRIBUTE = struct.Struct("=HH")  # length, type

_CLSACT = (0xFFFF0000, 0xFFFFFFF1, 0)  # handle, parent, info
_FILTER_HANDLE = 0x6B6C
_FILTER_INFO = 1 << 16 | socket.htons(3)  # priority 1, any protocol

Attributes = dict[int, bytes]


class Filter(NamedTuple):
    ifindex: int
    hook: int
    name: str  # empty: not of a kind that has names
    prog_id: int


def add_clsact(ifindex: int) -> None:
    """Idempotent. A device that is up loses what it is sending just then, a millisecond's worth."""
    try:
        _request(_NEWQDISC, _REQUEST | _ACK | _CREATE | _EXCL, ifindex, _CLSACT, {_KIND: b"clsact\0"})
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "the kernel has no clsact qdisc (module sch_ingress)") from None


def delete_clsact(ifindex: int) -> None:
    """With all filters. Idempotent; an old-style ingress qdisc stays."""
    try:
        _request(_DELQDISC, _REQUEST | _ACK, ifindex, _CLSACT, {_KIND: b"clsact\0"})
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.ENOENT, errno.ENODEV):
            raise


def read_devices() -> list[int]:
    """Those that can have filters at either hook."""
    answers = map(_parse, _request(_GETQDISC, _REQUEST | _DUMP, 0, (0, 0, 0), {}))
    return [ifindex for ifindex, _, _, found in answers if _text(found, _KIND) in ("clsact", "ingress")]


def replace_filter(ifindex: int, hook: int, prog_fd: int, name: str) -> None:
    """The filter in our place becomes this program, from one packet to the next."""
    options = {
        _BPF_FD: struct.pack("=I", prog_fd),
        _BPF_NAME: name.encode() + b"\0",
        _BPF_FLAGS: struct.pack("=I", _DIRECT_ACTION),
    }
    place = (_FILTER_HANDLE, hook, _FILTER_INFO)
    attributes = {_KIND: b"bpf\0", _OPTIONS: _pack(options)}
    try:
        _request(_NEWTFILTER, _REQUEST | _ACK | _CREATE | _REPLACE, ifindex, place, attributes)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "the kernel has no bpf filters (module cls_bpf)") from None


def delete_filter(ifindex: int, hook: int) -> None:
    """The one in our place. Idempotent."""
    try:
        _request(_DELTFILTER, _REQUEST | _ACK, ifindex, (_FILTER_HANDLE, hook, _FILTER_INFO), {_KIND: b"bpf\0"})
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.ENOENT, errno.ENODEV):
            raise


def read_filters(ifindex: int, hook: int) -> list[Filter]:
    """All, also of others; none where there is no such device or qdisc."""
    filters = []
    for answer in _request(_GETTFILTER, _REQUEST | _DUMP, ifindex, (0, hook, 0), {}):
        _, handle, _, attributes = _parse(answer)
        if not handle:  # tells of the priority only
            continue
        options = _unpack(attributes.get(_OPTIONS, b"")) if _text(attributes, _KIND) == "bpf" else {}
        prog_id = int.from_bytes(options.get(_BPF_ID, b""), "little")
        filters.append(Filter(ifindex, hook, _text(options, _BPF_NAME), prog_id))
    return filters


def _request(kind: int, flags: int, ifindex: int, place: tuple[int, int, int], attributes: Attributes) -> list[bytes]:
    """The answers of a dump; nothing otherwise. Raises OSError."""
    body = _TCMSG.pack(0, ifindex, *place) + _pack(attributes)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        answers: list[bytes] = []
        while True:
            for answer, payload in _messages(netlink.recv(1 << 16)):
                if answer == _DONE:
                    return answers
                if answer == _ERROR:
                    number = -int.from_bytes(payload[:4], "little", signed=True)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return answers
                answers.append(payload)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[-(-length // 4) * 4 :]


def _parse(answer: bytes) -> tuple[int, int, int, Attributes]:
    """ifindex, handle, parent, attributes."""
    _, ifindex, handle, parent, _ = _TCMSG.unpack_from(answer)
    return ifindex, handle, parent, _unpack(answer[_TCMSG.size :])


def _pack(attributes: Attributes) -> bytes:
    packed = b""
    for number, value in attributes.items():
        packed += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + value
        packed += bytes(-len(value) % 4)
    return packed


def _unpack(data: bytes) -> Attributes:
    attributes = {}
    while len(data) >= _ATTRIBUTE.size:
        length, number = _ATTRIBUTE.unpack_from(data)
        attributes[number & 0x3FFF] = data[_ATTRIBUTE.size : length]  # without the flags nested, network order
        data = data[max(-(-length // 4) * 4, _ATTRIBUTE.size) :]
    return attributes


def _text(attributes: Attributes, number: int) -> str:
    return attributes.get(number, b"").split(b"\0", 1)[0].decode()
