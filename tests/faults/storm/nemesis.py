"""Does to the lab what the schedule says, and undoes it. What is done to whom is noted with its times.

Easy to get wrong: an etcd member on a full disk ends by itself, so that undoing means a new start.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.errors import KvError
from kilim.lab import faults
from kilim.lab.errors import LabError
from kilim.lab.process import pid_of, wait_until
from tests.faults.cluster.stage import Stage
from tests.faults.storm.probes import Prober
from tests.faults.storm.record import Injected
from tests.faults.storm.schedule import (
    AGENT,
    CLOCK,
    COMPACT,
    CUT,
    ETCD_FOLLOWER,
    ETCD_LEADER,
    ETCD_MAJORITY,
    EVERYTHING,
    FILL,
    KILL,
    PAUSE,
    REPLICA,
    UNPLUG,
    Fault,
)

COMPACTIONS, COMPACTION_S = 4, 0.5
LEADER_S = 10.0
FULL_S, GROWTH_MOST, GROWTH_BYTES = 4.0, 24, 512 << 10
HEALED_S = 2.0  # neighbours and tunnels of an unplugged node find one another again


@dataclass(slots=True)
class Nemesis:
    stage: Stage
    prober: Prober
    injected: list[Injected] = field(default_factory=list)
    _hurt: set[str] = field(default_factory=set)

    async def carry_out(self, plan: Sequence[Fault]) -> None:
        running: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                if running is not None and not fault.together:
                    await running
                await asyncio.sleep(fault.wait_s)
                running = group.create_task(self._inject(fault), name=str(fault))

    async def _inject(self, fault: Fault) -> None:
        victims = await self._victims(fault)
        if not victims:
            return  # all of that role are being hurt already
        self._hurt.update(victims)
        began_ns, note = time.monotonic_ns(), ""
        try:
            note = await self._do(fault, victims)
            await asyncio.sleep(fault.hold_s)
        finally:
            await self._undo(fault, victims)
            self._hurt.difference_update(victims)
            ended_ns = time.monotonic_ns() + (int(HEALED_S * 1e9) if fault.kind == UNPLUG else 0)
            self.injected.append(Injected(fault.kind, tuple(victims), began_ns, ended_ns, note))

    async def _victims(self, fault: Fault) -> list[str]:
        lab = self.stage.lab
        members = [member.name for member in lab.etcd if member.name not in self._hurt]
        match fault.role:
            case "a replica":
                free = [name for name in self.stage.replica_names if name not in self._hurt]
            case "an agent":
                free = [name for name in lab.agent_processes if name not in self._hurt]
            case "two of three etcd members":
                return members[:2] if len(members) > 2 else []
            case "everything":
                return [] if self._hurt else [*members, *self.stage.replica_names, *lab.agent_processes]
            case _:
                assert fault.role in (ETCD_LEADER, ETCD_FOLLOWER, ETCD_MAJORITY, REPLICA, AGENT, EVERYTHING)
                leader = await self._leader()
                free = [name for name in members if (name == leader) == (fault.role == ETCD_LEADER)]
        return [free[fault.pick % len(free)]] if free else []

    async def _leader(self) -> str:
        """Empty where nobody comes to lead."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEADER_S):
                while True:
                    with suppress(LabError):
                        return await faults.etcd_leader(self.stage.lab)
                    await asyncio.sleep(0.1)
        return ""

    async def _do(self, fault: Fault, victims: list[str]) -> str:
        """What there is to say about it."""
        lab = self.stage.lab
        match fault.kind:
            case "kill":
                self.stage.kill(*victims)
            case "pause":
                self.stage.pause(*victims)
            case "cut":
                await asyncio.to_thread(self._cut, victims[0])
            case "unplug":
                await self.prober.probe_across(False)
                await asyncio.to_thread(faults.partition, lab, victims[0])
            case "clock":
                faults.set_clock(lab, victims[0], fault.offset_s)
                return f"{fault.offset_s:+} s"
            case "fill":
                await asyncio.to_thread(faults.fill_disk, lab, victims[0])
                await self._grow(victims[0])
                return "etcd runs on" if pid_of(lab.name, victims[0]) else "etcd ended"
            case _:
                assert fault.kind in (KILL, PAUSE, CUT, UNPLUG, CLOCK, FILL, COMPACT)
                return await self._compact()
        return ""

    def _cut(self, victim: str) -> None:
        """A server off the underlay; of a node the agent alone is cut off from the replicas, its pods are not."""
        lab = self.stage.lab
        if victim not in lab.agent_processes:
            faults.partition(lab, victim)
            return
        for replica in self.stage.replica_names:
            faults.partition(lab, victim, replica)

    async def _undo(self, fault: Fault, victims: list[str]) -> None:
        lab = self.stage.lab
        match fault.kind:
            case "kill":
                await self.stage.restart(*victims)
            case "pause":
                self.stage.resume(*victims)
            case "cut" | "unplug":
                await asyncio.to_thread(faults.heal, lab, victims[0])
                if fault.kind == UNPLUG:
                    await self.prober.probe_across(True)
            case "fill":
                faults.free_disk(lab, victims[0])
                if pid_of(lab.name, victims[0]) is None:
                    await self.stage.restart(*victims)

    async def _grow(self, member: str) -> None:
        """Makes etcd's database grow until the member has ended for want of space, or for as long as one may wait."""
        lab = self.stage.lab
        client = EtcdClient([f"http://{each.loopback}" for each in lab.etcd if each.name != member])
        deadline = time.monotonic() + FULL_S
        try:
            for number in range(GROWTH_MOST):
                if pid_of(lab.name, member) is None or time.monotonic() > deadline:
                    break
                with suppress(KvError):
                    await client.put(f"/storm/{time.monotonic_ns()}/{number}", bytes(GROWTH_BYTES))
        finally:
            await client.close()
        with suppress(LabError):
            await wait_until(member, lambda: pid_of(lab.name, member) is None, FULL_S)

    async def _compact(self) -> str:
        """To the head revision, under everybody who follows."""
        client = EtcdClient([f"http://{member.loopback}" for member in self.stage.lab.etcd])
        done = []
        try:
            for _ in range(COMPACTIONS):
                try:
                    statuses = await client.maintenance.status()
                    revision = max(status.revision for status in statuses)
                    await client.maintenance.compact(revision)
                    done.append(str(revision))
                except KvError as error:
                    done.append(type(error).__name__)
                await asyncio.sleep(COMPACTION_S)
        finally:
            await client.close()
        return f"compacted to {', '.join(done)}"
