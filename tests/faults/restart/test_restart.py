"""Agents are killed and started again, also as another version, while connections are made and used.

Whatever version comes, no connection fails and none that policy denies comes about; and where the table of connections
stays the same one, not a packet is lost. Where its layout changes, a connection that is opened in the very moment in
which hooks go from old programs to new ones may have to send its first packets again.
"""

import asyncio
import os
import random
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest

from kilim.agent.bpf.pins import read_pins
from kilim.lab.names import pin_dir
from kilim.lab.pods import running_pods
from kilim.lab.topology import IP_FAMILIES
from tests.faults.churn.test_churn import enforced, policy_drops, streams
from tests.faults.churn.variants import NODES
from tests.faults.cluster.stage import Stage
from tests.faults.restart.conftest import MODES
from tests.faults.restart.versions import environment
from tests.faults.storm.probes import Probed, Prober, probe_policy

RESTARTS = int(os.environ.get("KILIM_RESTARTS", "0"))  # of agents in each mode, every sixth an upgrade. 0: a few in one
UPGRADES = RESTARTS // 12 * 2
RATE = float(os.environ.get("KILIM_FAULT_PROBES", "1000"))
STREAMS = 50  # or a few more
TURNS = (("node1",), ("node2",), NODES)
MIDWAY_S = 1.0
LEAST_PROBES = 300


def over(routing_mode: str) -> pytest.MarkDecorator:
    """Both families at once where only a few restarts are made; else each way by itself."""
    ways = [*product(MODES, IP_FAMILIES)] if RESTARTS else [(routing_mode, "")]
    return pytest.mark.parametrize(("routing_mode", "ip_family"), ways, indirect=["routing_mode"], scope="session")


Versions = dict[str, Path | None]


@over("tunnel")
async def test_restarts_and_rebuilt_programs_lose_no_packet(
    stage: Stage, versions: Versions, ip_family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await begin(stage)
    async with Load(stage, ip_family) as load:
        starts = await restart(stage, [None], RESTARTS - UPGRADES or 2)
        upgrades = await restart(stage, [versions["rebuilt"], None], UPGRADES or 2)
    load.tell(capsys, f"{starts} restarts, {upgrades} upgrades to rebuilt programs")
    load.check()
    assert load.drops == load.probed.denied_syns
    assert [pair for pair in load.probed.pairs if pair[4]] == [], "packets of allowed connections were lost"


@over("native")
async def test_another_layout_of_connections_cuts_none_and_opens_none(
    stage: Stage, versions: Versions, ip_family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await begin(stage)
    layouts = set()
    async with Load(stage, ip_family) as load:
        upgrades = await restart(stage, [versions["wider connections"], None], UPGRADES or 2, layouts)
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
        families = (ip_family,) if ip_family else IP_FAMILIES
        self._streams = streams(stage, -(-STREAMS // len(NODES) ** 2 // len(families)), 0.2, families)

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
    """So many starts of agents, each time of the next version, back to this one in the end. Some are killed again
    before they are there: a start, too, is to be able to end anywhere. `layouts`: gets the pins of connections."""
    chance, left = random.Random(count), count
    for nodes in cycle(TURNS):
        twice = chance.random() < 0.3
        if (cost := len(versions) * len(nodes) * (1 + twice)) > left:
            nodes, twice, cost = nodes[:1], False, len(versions)
        for version in versions:
            await start_as(stage, nodes, version, chance.uniform(0, MIDWAY_S) if twice else None)
            for node in nodes:
                pins = read_pins(pin_dir(stage.lab.name) / node / "maps", "ct")
                assert len(pins) == 1, "maps of another layout are left over"
                if layouts is not None:
                    layouts.add(pins[0].name)
        if (left := left - cost) <= 0:
            break
    return count - left


async def start_as(stage: Stage, nodes: Sequence[str], version: Path | None, again_s: float | None) -> None:
    """`again_s`: once more after that long, a moment within the start, whichever it is."""
    with environment(**{"PYTHONPATH": str(version)} if version else {}):
        await start_again(stage, nodes)
        if again_s is not None:
            await asyncio.sleep(again_s)
            await start_again(stage, nodes)
    await enforced(stage, (await stage.replicas[0].status()).seq)


async def start_again(stage: Stage, nodes: Sequence[str]) -> None:
    stage.kill(*nodes)
    await stage.restart(*nodes)
