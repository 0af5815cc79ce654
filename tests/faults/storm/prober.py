"""Short TCP connections between pods at a steady rate: one process, one epoll, sockets that live in the pods.

    stdin: one line of JSON, what to probe; its end or `most` connections end it.  stdout: one line, what was seen
    Meanwhile a line each way, `-` and `+`: no more, and again, denied connections between nodes, whose SYNs would be
    lost in a pulled cable instead of being counted by policy.

Easy to get wrong: a denied SYN is sent again by the kernel, so that a connection that comes late may have lost packets:
`lost` counts allowed ones with retransmissions, and `denied_syns` each SYN of those that policy must have dropped.
"""

import ctypes
import errno
import json
import math
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

CLONE_NEWNET = 0x40000000
DENIED_S = 0.4  # under the second after which the kernel sends a SYN again
TICK_S = 0.01
_TCP_INFO_BYTES, _TOTAL_RETRANS = 104, 100

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Pair:
    source: str
    netns: int
    source_ip: str
    target: str
    ip: str
    port: int
    allowed: bool
    done: int = 0
    lost: int = 0

    @property
    def across(self) -> bool:
        return self.source.rpartition("-")[2] != self.target.rpartition("-")[2]


@dataclass(slots=True, eq=False)
class Probe:
    pair: Pair
    opened: socket.socket
    began_ns: int
    closed: bool = False


@dataclass(slots=True)
class Prober:
    rate: float
    most: float
    patience_s: float  # with a connection that is allowed
    most_wrong: int
    pairs: list[Pair]
    denied: set[tuple[str, str]]  # (source ip, target)
    epoll: select.epoll = field(default_factory=select.epoll)
    probes: dict[int, Probe] = field(default_factory=dict)
    listeners: dict[int, tuple[str, socket.socket]] = field(default_factory=dict)
    served: dict[int, socket.socket] = field(default_factory=dict)
    waiting: tuple[deque[Probe], deque[Probe]] = field(default_factory=lambda: (deque(), deque()))
    wrong: list[dict[str, Any]] = field(default_factory=list)
    away: int = 0  # nodes that are unplugged
    denied_syns: int = 0
    late_ticks: int = 0

    def listen(self, name: str, netns: int, ip: str, port: int) -> None:
        enter(netns)
        listener = socket.socket(family_of(ip))
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(4096)
        self.listeners[listener.fileno()] = (name, listener)
        self.epoll.register(listener.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until stdin ends; then waits for what is under way."""
        self.epoll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
        began, opened, ending = time.monotonic(), 0, False
        while not ending or self.probes:
            for fd, events in self.epoll.poll(TICK_S):
                if fd == sys.stdin.fileno():
                    ending = self._told(os.read(fd, 64))
                else:
                    self._serve(fd, events)
            now = time.monotonic()
            ending = ending or opened >= self.most
            if not ending:
                due = int((now - began) * self.rate) - opened
                if due > self.rate * 10 * TICK_S:  # fell behind: no burst to make up for it
                    self.late_ticks += 1
                    began += (due - 1) / self.rate
                    due = 1
                self._open(opened, due)
                opened += due
            self._expire()

    def _told(self, words: bytes) -> bool:
        """Whether that was the end."""
        for word in words.decode().split():
            self.away += 1 if word == "-" else -1
            print(word, flush=True)
        if not words:
            self.epoll.unregister(sys.stdin.fileno())
        return not words

    def _open(self, number: int, count: int) -> None:
        pairs = [pair for pair in self.pairs if pair.allowed or not pair.across] if self.away else self.pairs
        chosen = sorted((pairs[n % len(pairs)] for n in range(number, number + count)), key=lambda p: p.netns)
        inside = -1
        for pair in chosen:
            if pair.netns != inside:
                enter(inside := pair.netns)
            probe = Probe(pair, socket.socket(family_of(pair.ip)), time.monotonic_ns())
            probe.opened.setblocking(False)
            self.probes[probe.opened.fileno()] = probe
            self.waiting[pair.allowed].append(probe)
            error = probe.opened.connect_ex((pair.ip, pair.port))
            if error != errno.EINPROGRESS:
                self._end(probe, f"connect: {errno.errorcode.get(error, error)}")
            else:
                self.epoll.register(probe.opened.fileno(), select.EPOLLOUT)

    def _serve(self, fd: int, events: int) -> None:
        if fd in self.listeners:
            self._accept(*self.listeners[fd])
        elif fd in self.served:
            self._answer(self.served[fd])
        elif probe := self.probes.get(fd):
            self._go_on(probe, events)

    def _accept(self, name: str, listener: socket.socket) -> None:
        while True:
            try:
                accepted, (source_ip, *_) = listener.accept()
            except BlockingIOError:
                return
            except OSError:
                continue
            if (source_ip, name) in self.denied:
                now = time.monotonic_ns()
                what = {"source": source_ip, "target": name, "what": "a denied connection was accepted"}
                self._note(what | {"began_ns": now, "ended_ns": now, "allowed": False})
            accepted.setblocking(False)
            self.served[accepted.fileno()] = accepted
            self.epoll.register(accepted.fileno(), select.EPOLLIN)

    def _answer(self, accepted: socket.socket) -> None:
        try:
            if data := accepted.recv(16):
                accepted.send(data)
                return
        except OSError:
            pass
        del self.served[accepted.fileno()]
        accepted.close()

    def _go_on(self, probe: Probe, events: int) -> None:
        try:
            if events & select.EPOLLOUT and not events & (select.EPOLLERR | select.EPOLLHUP):
                probe.opened.send(b"k")
                self.epoll.modify(probe.opened.fileno(), select.EPOLLIN)
                return
            if probe.opened.recv(16) == b"k":
                self._end(probe, "")
            else:
                self._end(probe, "closed without an answer")
        except OSError as error:
            self._end(probe, errno.errorcode.get(error.errno or 0, str(error)))

    def _end(self, probe: Probe, failure: str) -> None:
        pair, probe.closed = probe.pair, True
        pair.done += 1
        del self.probes[probe.opened.fileno()]
        resent = retransmissions(probe.opened)
        probe.opened.close()
        if pair.allowed:
            pair.lost += resent > 0
            if failure:
                self._note_probe(probe, failure)
        elif failure:
            self.denied_syns += resent + 1
        else:
            self._note_probe(probe, "a denied connection was answered")

    def _expire(self) -> None:
        now = time.monotonic_ns()
        for queue, patience_s in zip(self.waiting, (DENIED_S, self.patience_s), strict=True):
            while queue and (queue[0].closed or now - queue[0].began_ns > patience_s * 1e9):
                probe = queue.popleft()
                if not probe.closed:
                    self._end(probe, "silence")

    def _note_probe(self, probe: Probe, what: str) -> None:
        spent = {"began_ns": probe.began_ns, "ended_ns": time.monotonic_ns(), "allowed": probe.pair.allowed}
        self._note({"source": probe.pair.source, "target": probe.pair.target, "what": what, **spent})

    def _note(self, what: dict[str, Any]) -> None:
        if len(self.wrong) < self.most_wrong:
            self.wrong.append(what)


def family_of(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def enter(netns: int) -> None:
    if _libc.setns(netns, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def retransmissions(opened: socket.socket) -> int:
    info = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    (count,) = struct.unpack_from("=I", info, _TOTAL_RETRANS) if len(info) >= _TCP_INFO_BYTES else (0,)
    return int(count)


def read_line(fd: int) -> bytes:
    """No more than that: the rest is for epoll."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(fd, 1)
    return line


def main() -> None:
    wanted = json.loads(read_line(sys.stdin.fileno()))
    handles = {pod["name"]: os.open(pod["netns"], os.O_RDONLY) for pod in wanted["pods"]}
    ips = {pod["name"]: pod["ips"] for pod in wanted["pods"]}
    port = wanted["port"]
    pairs = [
        Pair(source, handles[source], source_ip, target, target_ip, port, allowed)
        for source, target, allowed in wanted["pairs"]
        for source_ip, target_ip in zip(ips[source], ips[target], strict=True)
    ]
    prober = Prober(
        wanted["rate"],
        wanted["most"] or math.inf,
        wanted["patience_s"],
        wanted["most_wrong"],
        pairs,
        {(p.source_ip, p.target) for p in pairs if not p.allowed},
    )
    for name in wanted["listeners"]:
        for ip in ips[name]:
            prober.listen(name, handles[name], ip, port)
    print(json.dumps({"listening": wanted["listeners"]}), flush=True)
    began, began_cpu = time.monotonic(), time.process_time()
    prober.run()
    spent_s = time.monotonic() - began
    print(
        json.dumps(
            {
                "seconds": spent_s,
                "cpu_share": (time.process_time() - began_cpu) / spent_s,
                "late_ticks": prober.late_ticks,
                "denied_syns": prober.denied_syns,
                "pairs": [[p.source, p.target, p.allowed, p.done, p.lost] for p in pairs],
                "wrong": prober.wrong,
            }
        )
    )


if __name__ == "__main__":
    main()
