"""Random packets over random tables: the model and the kernel must agree on each, or there is something to learn.

    python -m tests.datapath.fuzz [--seconds S | --executions N] [--seed SEED]

A round is one set of tables and a sequence of packets on few connections, so that they meet one another. All that a
round does follows from its seed, which is printed with the packet that makes a difference.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.datapath import places
from tests.datapath.check import EXPIRE, Send, Step
from tests.datapath.drawing import draw_change, draw_packet, draw_tables
from tests.datapath.kernel import (
    Kernel,
    connection_differences,
    differences,
    fragment_differences,
    mapping_differences,
    ticks,
)
from tests.datapath.model import programs
from tests.datapath.model.state import Node, Outcome
from tests.datapath.setup import loaded_kernel

PACKETS = 40  # of a round

Model = Callable[[Node, str, bytes, int, tuple[int, int] | None], Outcome]


class Difference(NamedTuple):
    seed: int  # of the round
    step: int
    what: str

    def __str__(self) -> str:
        return f"round with seed {self.seed}, step {self.step}: {self.what}"


def steps(random_: random.Random, sent: list[Send], outside: bool) -> Iterator[Step]:
    """`sent`: packets that there may be answers to."""
    for _ in range(PACKETS):
        chance = random_.random()
        if chance < 0.02:
            yield EXPIRE
        elif chance < 0.06:
            yield draw_change(random_)
        else:
            yield draw_packet(random_, sent, outside)


def fuzz_round(kernel: Kernel, seed: int, model: Model = programs.run) -> tuple[int, Difference | None]:
    """How many packets were executed, and the first difference."""
    random_ = random.Random(seed)
    node = Node(kernel.settings, draw_tables(random_))
    kernel.forget_connections()
    kernel.load(node.tables)
    kernel.take_counters()
    counted: Counter[tuple[int, int]] = Counter()
    done = 0
    sent: list[Send] = []
    for number, step in enumerate(steps(random_, sent, kernel.settings.masquerade)):
        if not isinstance(step, Send):
            _change(kernel, node, step)
            continue
        node.now = ticks()
        expected = model(node, step.program, step.frame, places.LO, step.tunnel)
        seen = kernel.run(step.program, step.frame, step.tunnel)
        counted += expected.counters
        done += 1
        sent.append(step)
        if expected.way and expected.way.kind == "neighbor" and expected.frame != step.frame:
            sent.append(step._replace(frame=expected.frame))  # what the other end answers
        found = differences(expected, seen)
        if found:
            return done, Difference(seed, number, "; ".join(found) + _reproducer(step))
    found = connection_differences(node, kernel.connections(), slack=2)
    found += fragment_differences(node, kernel.fragments()) + mapping_differences(node, kernel.mappings())
    counters = kernel.take_counters()
    if counters != counted:
        found.append(f"counters: the model says {dict(counted)}, the kernel {dict(counters)}")
    return done, Difference(seed, PACKETS, "after the last packet: " + "; ".join(found)) if found else None


def _reproducer(step: Send) -> str:
    tunnel = f", out of a tunnel {step.tunnel}" if step.tunnel else ""
    return f"\n  {step.program}{tunnel}, packet {step.frame.hex()}"


def _change(kernel: Kernel, node: Node, step: Step) -> None:
    if step == EXPIRE:
        kernel.expire_connections()
        node.expire_connections()
        return
    assert callable(step)
    step(node.tables)
    kernel.load(node.tables)


def fuzz(
    kernel: Kernel,
    seed: int,
    *,
    executions: int = sys.maxsize,
    seconds: float = float("inf"),
    model: Model = programs.run,
) -> tuple[int, Difference | None]:
    """Rounds until either bound is reached or something differs."""
    end, done = time.monotonic() + seconds, 0
    while done < executions and time.monotonic() < end:
        count, difference = fuzz_round(kernel, seed, model)
        done += count
        seed += 1
        if difference:
            return done, difference
    return done, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--executions", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; drawn and printed if left out")
    parser.add_argument("--masquerade", action="store_true", help="a node that masquerades")
    options = parser.parse_args()
    if options.executions == sys.maxsize and options.seconds == float("inf"):
        options.seconds = 60.0
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    wanted = places.MASQUERADING if options.masquerade else places.SETTINGS
    with tempfile.TemporaryDirectory() as scratch, loaded_kernel(f"fuzz-{seed:x}", Path(scratch), wanted) as kernel:
        begun = time.monotonic()
        done, difference = fuzz(kernel, seed, executions=options.executions, seconds=options.seconds)
        spent = time.monotonic() - begun
    print(f"seed {seed}: {done:,} executions in {spent:.1f} s, {done / spent:,.0f} a second")
    if difference:
        print(difference)
        masquerade = " MASQUERADE=1" if options.masquerade else ""
        print(f"again: make fuzz SEED={difference.seed} EXECUTIONS={PACKETS}{masquerade}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
