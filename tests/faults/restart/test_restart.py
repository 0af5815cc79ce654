"""Agents are killed and started again, also as another version, while connections are made and used.

Whatever version comes, no connection fails and none that policy denies comes about; and where the table of connections
stays the same one, not a packet is lost. Where its layout changes, a connection that is opened in the very moment in
which hooks go from old programs to new ones may have to send its first packets again.
"""

import asyncio
import os
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.bpf.pins import read_pins
from kilim.lab.names import pin_dir
from kilim.lab.pods import running_pods
from tests.faults.churn.test_churn import enforced, policy_drops, streams
from tests.faults.churn.variants import NODES
from tests.faults.cluster.stage import Stage
from tests.faults.restart.conftest import MODES
from tests.faults.restart.versions import environment
from tests.faults.storm.probes import Probed, Prober, probe_policy

RESTARTS = int(os.environ.get("KILIM_RESTARTS", "0"))  # of agents; and a fifth of it as upgrades. 0: a few in each mode
RATE = float(os.environ.get("KILIM_FAULT_PROBES", "1000"))
STREAMS_OF_EACH = 13  # over four pairs of pods
TURNS = (("node1",), ("node2",), NODES)
MIDWAY_S = 1.0
LEAST_PROBES = 300


def over(routing_mode: str, ip_family: str) -> pytest.MarkDecorator:
    """Where only a few restarts are made; else over all there are."""
    ways = [*product(MODES, ("IPv4", "IPv6"))] if RESTARTS else [(routing_mode, ip_family)]
    return pytest.mark.parametrize(("routing_mode", "ip_family"), ways, indirect=["routing_mode"], scope="session")


Versions = dict[str, Path | None]


@over("tunnel", "IPv6")
async def test_restarts_and_rebuilt_programs_lose_no_packet(
    stage: Stage, versions: Versions, ip_family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await begin(stage)
    async with Load(stage, ip_family) as load:
        starts = await restart(stage, [None], RESTARTS or 2)
        upgrades = await restart(stage, [versions["rebuilt"], None], RESTARTS // 10 or 1)
    load.tell(capsys, f"{starts} restarts, {upgrades} upgrades to rebuilt programs")
    load.check()
    assert load.drops == load.probed.denied_syns
    assert [pair for pair in load.probed.pairs if pair[4]] == [], "packets of allowed connections were lost"


@over("native", "IPv4")
async def test_another_layout_of_connections_cuts_none_and_opens_none(
    stage: Stage, versions: Versions, ip_family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await begin(stage)
    layouts = set()
    async with Load(stage, ip_family) as load:
        upgrades = await restart(stage, [versions["wider connections"], None], RESTARTS // 10 or 1, layouts)
    load.tell(capsys, f"{upgrades} upgrades to another layout of connections and back")
    load.check()
    assert len(layouts) == 2, "it was always the same layout"


async def begin(stage: Stage) -> None:
    await enforced(stage, (await stage.replicas[0].apply(probe_policy())).seq)


class Load:
    """New connections and long ones, from the entry to the exit."""

    probed: Probed
    drops: int  # of policy

    def __init__(self, stage: Stage, ip_family: str) -> None:
        self._stage = stage
        self._prober = Prober(running_pods(stage.lab), RATE, ip_family=ip_family)
        self._streams = streams(stage, STREAMS_OF_EACH, 0.2, ip_family)

    async def __aenter__(self) -> "Load":
        self._drops_before = await policy_drops(self._stage)
        await self._prober.start()  # its servers answer the streams too
        self._flows = await self._streams.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            await self._streams.__aexit__(kind, error, trace)
            if error is None:
                self.probed = await self._prober.stop()
                self.drops = await policy_drops(self._stage) - self._drops_before
        finally:
            await self._prober.abandon()

    def tell(self, capsys: pytest.CaptureFixture[str], what: str) -> None:
        with capsys.disabled():
            print(f"\n  {what}: {self.probed}; policy dropped {self.drops}, {self.probed.denied_syns} were denied")

    def check(self) -> None:
        assert self.probed.wrong == []
        for flow in self._flows:
            assert flow.stream.done > 1 and flow.stream.wrong == 0, flow.stream.first_wrong
        assert min(self.probed.total(True), self.probed.total(False)) >= LEAST_PROBES


async def restart(stage: Stage, versions: list[Path | None], count: int, layouts: set[str] | None = None) -> int:
    """So many starts of agents or a few more, each time of the next version; how many it were. Some are killed again
    before they are there: a start, too, is to be able to end anywhere. `layouts`: gets the pins of connections."""
    chance, starts, turn = random.Random(count), 0, 0
    while starts < count or turn % len(versions):
        nodes, version = TURNS[turn // len(versions) % len(TURNS)], versions[turn % len(versions)]
        with environment(**{"PYTHONPATH": str(version)} if version else {}):
            starts += await start_again(stage, nodes)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, MIDWAY_S))  # a moment within the start, whichever it is
                starts += await start_again(stage, nodes)
        turn += 1
        await enforced(stage, (await stage.replicas[0].status()).seq)
        for node in nodes:
            pins = read_pins(pin_dir(stage.lab.name) / node / "maps", "ct")
            assert len(pins) == 1, "maps of another layout are left over"
            if layouts is not None:
                layouts.add(pins[0].name)
    return starts


async def start_again(stage: Stage, nodes: Sequence[str]) -> int:
    stage.kill(*nodes)
    await stage.restart(*nodes)
    return len(nodes)
