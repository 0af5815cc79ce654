"""Audit mode goes on and off while connections are made: what policy allows is never cut, what it denies passes only
while the mode is on, and is counted and recorded then.

Easy to get wrong: a switch is over when all nodes have acknowledged it; in between each end goes by what it knows.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest

from kilim.lab.pods import running_pods
from kilim.lab.topology import Lab
from tests.faults.churn.lab import probed_lab
from tests.faults.churn.test_churn import (
    LEAST_PROBES,
    RATE,
    SECONDS,
    begin_anew,
    enforced,
    packets,
    policy_drops,
    streams,
)
from tests.faults.churn.variants import VARIANTS
from tests.faults.cluster.stage import Stage
from tests.faults.labs import lab_while_tested
from tests.faults.storm.probes import Prober

HOLD_S = 0.8
SERVED_S = 0.3  # after which a server has looked at what came to it
LEAST_TURNS = 2

Interval = tuple[int, int]  # monotonic nanoseconds


@pytest.fixture(scope="module")
def churn_lab(name_prefix: str) -> Iterator[Lab]:
    """One of its own: connections that audit mode let through and that were cut send again long after."""
    yield from lab_while_tested(f"{name_prefix}-audit", probed_lab)


async def test_denied_connections_pass_while_the_mode_is_on_and_only_then(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    await begin_anew(stage, next(each for each in VARIANTS if each.name == "other ports"), {})
    prober = Prober(running_pods(stage.lab), RATE, most_wrong=100_000)
    on: list[Interval] = []
    off_drops = 0
    try:
        await prober.start()
        async with streams(stage) as flows:
            began = time.monotonic()
            while len(on) < LEAST_TURNS or time.monotonic() - began < SECONDS:
                on.append(await while_audited(stage))
                drops_before = await policy_drops(stage)
                await asyncio.sleep(HOLD_S)
                off_drops += await policy_drops(stage) - drops_before
        probed = await prober.stop()
    finally:
        await prober.abandon()
    passed = [each for each in probed.wrong if not each["allowed"]]
    with capsys.disabled():
        print(f"\n  audit mode {len(on)} times on: {probed}; {off_drops} dropped while it was off")
    assert [each for each in probed.wrong if each["allowed"]] == []
    assert [pair for pair in probed.pairs if pair[4]] == [], "packets of allowed connections were lost"
    assert all(flow.stream.wrong == 0 for flow in flows)
    assert [each for each in passed if not any(overlaps(each, interval) for interval in on)] == []
    assert len(passed) >= LEAST_PROBES and off_drops >= LEAST_PROBES and probed.total(True) >= LEAST_PROBES


async def while_audited(stage: Stage) -> Interval:
    """From before it begins anywhere until it has ended everywhere."""
    began_ns = time.monotonic_ns()
    records_before = await audited(stage)
    await enforced(stage, await stage.plane.set("policy-audit-mode", "true"))
    await asyncio.sleep(HOLD_S)
    assert await audited(stage) > records_before
    await enforced(stage, await stage.plane.set("policy-audit-mode", "false"))
    return began_ns, time.monotonic_ns()


async def audited(stage: Stage) -> int:
    return await packets(stage, {"AUDIT"})


def overlaps(passed: dict[str, int], interval: Interval) -> bool:
    return passed["began_ns"] <= interval[1] + int(SERVED_S * 1e9) and interval[0] <= passed["ended_ns"]
