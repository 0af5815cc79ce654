"""Many subscribers in few processes, each with a connection of its own, that cost next to nothing themselves.

They speak just enough HTTP/2 to subscribe and read: beside gRPC's own client, which costs as much as the server does,
a replica would wait for them.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import struct
import time
from array import array
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from kilim.kvstore.commit import decode_commit
from kilim.v1 import controlplane_pb2 as api

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_WINDOW_BYTES = 0x7FFFFFFF
_ACK = _END = 1
_END_HEADERS = 4


class Deliveries(NamedTuple):
    """One entry per message that had events: when it came, and its first and last event."""

    at_s: array[float]
    first: array[int]
    last: array[int]


class _Subscriber:
    def __init__(self, address: str, from_seq: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seq = from_seq - 1
        self._frames = b""
        self._messages = b""
        request = api.SubscribeRequest(node="bench", from_seq=from_seq).SerializeToString()
        self.socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _WINDOW_BYTES))
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _WINDOW_BYTES - 65535))
            + _frame(_HEADERS, _END_HEADERS, 1, _header_block())
            + _frame(_DATA, _END, 1, struct.pack(">BI", 0, len(request)) + request)
        )

    def read(self) -> list[bytes]:
        """What has come whole. Raises ConnectionError when the stream is over."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the replica closed the connection")
        self._frames += data
        start = 0
        while len(self._frames) - start >= 9:
            size = int.from_bytes(self._frames[start : start + 3], "big")
            if len(self._frames) - start < 9 + size:
                break
            self._take(self._frames[start + 3], self._frames[start + 4], self._frames[start + 9 : start + 9 + size])
            start += 9 + size
        self._frames = self._frames[start:]
        return self._whole_messages()

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _DATA:
            self._messages += payload
        elif kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RESET, _GOAWAY) or (kind == _HEADERS and flags & _END):
            raise ConnectionError(f"the stream ended: frame {kind} {payload!r}")

    def _whole_messages(self) -> list[bytes]:
        messages = []
        start = 0
        while len(self._messages) - start >= 5:
            end = start + 5 + int.from_bytes(self._messages[start + 1 : start + 5], "big")
            if len(self._messages) < end:
                break
            messages.append(self._messages[start + 5 : end])
            start = end
        self._messages = self._messages[start:]
        return messages


class _Crowd:
    """The subscribers of one process; answers each number that comes through the pipe when all have come so far."""

    def __init__(self, address: str, count: int, from_seq: int, pipe: Connection) -> None:
        self._pipe = pipe
        self._selector = selectors.DefaultSelector()
        self._spans: dict[bytes, tuple[int, int]] = {}  # most messages are the same for all
        self._until = 0
        self._missing = 0
        self._deliveries = _nothing()
        self._everyone = [_Subscriber(address, from_seq) for _ in range(count)]
        for each in self._everyone:
            self._selector.register(each.socket, selectors.EVENT_READ, each)
        self._selector.register(pipe, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._until = self._pipe.recv()
                    if not self._until:
                        return
                    self._missing = sum(each.seq < self._until for each in self._everyone)
                    self._answer()
                else:
                    self._read(key.data)

    def _read(self, subscriber: _Subscriber) -> None:
        messages = subscriber.read()
        now_s = time.monotonic()
        for message in messages:
            first, last = self._span(message)
            if not last:
                continue
            if first != subscriber.seq + 1:
                raise ConnectionError(f"event {first} came after {subscriber.seq}")
            if subscriber.seq < self._until <= last:
                self._missing -= 1
            subscriber.seq = last
            self._deliveries.at_s.append(now_s)
            self._deliveries.first.append(first)
            self._deliveries.last.append(last)
        self._answer()

    def _answer(self) -> None:
        if self._until and not self._missing:
            self._pipe.send(self._deliveries)
            self._until, self._deliveries = 0, _nothing()
            self._spans.clear()

    def _span(self, message: bytes) -> tuple[int, int]:
        span = self._spans.get(message)
        if span is None:
            span = self._spans[message] = _span_of(api.SubscribeResponse.FromString(message))
        return span


@dataclass(frozen=True, slots=True)
class Crowd:
    """One process of subscribers, as the benchmark sees it."""

    process: BaseProcess
    pipe: Connection

    @staticmethod
    def start(address: str, count: int, from_seq: int) -> Crowd:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(address, count, from_seq, theirs), daemon=True)
        process.start()
        theirs.close()
        return Crowd(process, ours)

    def ask(self, seq: int) -> None:
        """`answer` waits until all have everything up to `seq`."""
        self.pipe.send(seq)

    def answer(self) -> Deliveries:
        """Raises EOFError where a subscriber failed."""
        deliveries: Deliveries = self.pipe.recv()
        return deliveries

    def stop(self) -> None:
        if self.process.is_alive():
            self.pipe.send(0)
        self.process.join()


def _run(address: str, count: int, from_seq: int, pipe: Connection) -> None:
    _Crowd(address, count, from_seq, pipe).run()


def _nothing() -> Deliveries:
    return Deliveries(array("d"), array("q"), array("q"))


def _span_of(message: api.SubscribeResponse) -> tuple[int, int]:
    """(0, 0): no events."""
    encoded = [message.commit] if message.commit else list(message.commits.commits)
    if not encoded:
        return 0, 0
    return decode_commit(encoded[0]).first_seq, decode_commit(encoded[-1]).last_seq


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header_block() -> bytes:
    fields = {
        ":method": "POST", ":scheme": "http", ":path": "/kilim.v1.Nodes/Subscribe", ":authority": "bench",
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


def _text(value: str) -> bytes:
    return bytes((len(value),)) + value.encode()
