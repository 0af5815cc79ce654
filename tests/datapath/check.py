"""A check: what a node knows, packets one after the other, and what is to become of each. Both executors run it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.datapath import places
from tests.datapath.kernel import (
    Kernel,
    connection_differences,
    differences,
    fragment_differences,
    mapping_differences,
    ticks,
)
from tests.datapath.model.programs import run
from tests.datapath.model.state import DROP, PASS, REASONS, REDIRECT, Node, Outcome, Tables
from tests.datapath.places import LO, tables

REASON_NAMES = {number: name for name, number in REASONS.items()}


class Send(NamedTuple):
    """`expected`: pass (to the node's stack), redirect, the reason of the drop, or `told` the MTU that is left."""

    program: str
    frame: bytes
    expected: str
    tunnel: tuple[int, int] | None = None  # who sent the outer packet, VNI


class Answer(NamedTuple):
    """What the other end of the last packet says to it, from outside."""

    expected: str

    def to(self, frame: bytes) -> Send:
        return Send("from_netdev", places.answered(frame), self.expected)


class Complaint(NamedTuple):
    """An ICMP error about the last packet, of its other end; so many bytes are quoted behind the IP header."""

    expected: str
    quoted: int

    def to(self, frame: bytes) -> Send:
        return Send("from_netdev", places.complaint(frame, self.quoted), self.expected)


Change = Callable[[Tables], None]
EXPIRE = "expire"  # as if the time of all connections had passed
Step = Send | Answer | Complaint | Change | str


@dataclass
class Check:
    name: str
    steps: list[Step]
    tables: Tables = field(default_factory=tables)


def word_of(outcome: Outcome) -> str:
    """What checks call an outcome; quiet drops leave no record, so the reason is read off the counters."""
    if outcome.verdict == REDIRECT and outcome.reason:
        return f"told {_told_mtu(outcome.frame)}"
    if outcome.verdict != DROP:
        return {PASS: "pass", REDIRECT: "redirect"}[outcome.verdict]
    return REASON_NAMES[outcome.reason or next(each for each, _ in outcome.counters if each > 2)]


def _told_mtu(frame: bytes) -> int:
    """By an ICMP message: the last bytes of its header."""
    at = 40 if frame[12:14] == b"\x08\x00" else 60
    return int.from_bytes(frame[at : at + 2], "big")


def execute(check: Check, kernel: Kernel) -> list[str]:
    """What is not as expected, or not the same of both; empty if all is well."""
    node = Node(kernel.settings, deepcopy(check.tables))
    kernel.forget_connections()
    kernel.load(node.tables)
    found: list[str] = []
    last = b""
    for number, step in enumerate(check.steps):
        if isinstance(step, Answer | Complaint):
            step = step.to(last)
        if isinstance(step, Send):
            last, wrong = _send(node, kernel, step)
            found += [f"step {number}: {each}" for each in wrong]
        elif step == EXPIRE:
            kernel.expire_connections()
            node.expire_connections()
        else:
            assert callable(step)
            step(node.tables)
            kernel.load(node.tables)
    return found + fragment_differences(node, kernel.fragments()) + mapping_differences(node, kernel.mappings())


def _send(node: Node, kernel: Kernel, step: Send) -> tuple[bytes, list[str]]:
    """What it has become, and what is wrong with that."""
    node.now = ticks()
    expected = run(node, step.program, step.frame, LO, step.tunnel)
    seen = kernel.run(step.program, step.frame, step.tunnel)
    seen.counters = kernel.take_counters()
    found = differences(expected, seen) + connection_differences(node, kernel.connections())
    if expected.counters != seen.counters:
        found.append(f"counters: the model says {dict(expected.counters)}, the kernel {dict(seen.counters)}")
    for who, outcome in (("the model", expected), ("the kernel", seen)):
        word = word_of(outcome)
        if word != step.expected:
            found.append(f"expected {step.expected}, {who} says {word}")
    return expected.frame, [f"{each}\n    {step.program} {step.frame.hex()}" for each in found]
