"""A check: what a node knows, packets one after the other, and what is to become of each. Both executors run it."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.datapath.kernel import Kernel, connection_differences, differences, fragment_differences, ticks
from tests.datapath.model.programs import run
from tests.datapath.model.state import DROP, PASS, REASONS, REDIRECT, Node, Outcome, Settings, Tables
from tests.datapath.places import LO, SETTINGS, tables

REASON_NAMES = {number: name for name, number in REASONS.items()}


class Send(NamedTuple):
    """`expected`: pass (to the node's stack), redirect, the reason of the drop, or `told` the MTU that is left."""

    program: str
    frame: bytes
    expected: str
    tunnel: tuple[int, int] | None = None  # who sent the outer packet, VNI


Change = Callable[[Tables], None]
EXPIRE = "expire"  # as if the time of all connections had passed
Step = Send | Change | str


@dataclass
class Check:
    name: str
    steps: list[Step]
    tables: Tables = field(default_factory=tables)
    settings: Settings = SETTINGS


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
    node = Node(check.settings, deepcopy(check.tables))
    kernel.forget_connections()
    kernel.load(node.tables)
    found: list[str] = []
    for number, step in enumerate(check.steps):
        if isinstance(step, Send):
            found += [f"step {number}: {each}" for each in _send(node, kernel, step)]
        elif step == EXPIRE:
            kernel.expire_connections()
            node.expire_connections()
        else:
            assert callable(step)
            step(node.tables)
            kernel.load(node.tables)
    return found + fragment_differences(node, kernel.fragments())


def _send(node: Node, kernel: Kernel, step: Send) -> list[str]:
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
    return [f"{each}\n    {step.program} {step.frame.hex()}" for each in found]
