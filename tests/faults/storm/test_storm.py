"""Clients write, followers follow, connections come and go, and a seeded schedule of faults hits everybody.

    KILIM_FAULT_SEEDS   1,2,3   one storm each                    KILIM_FAULT_ROUNDS   how many faults each has
    KILIM_FAULT_RATE    writes per second of each of the clients  KILIM_FAULT_PROBES   short connections per second

A storm that fails prints its seed and schedule and names the file of its histories.
"""

import asyncio
import os
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import pytest

from kilim.lab import faults
from kilim.lab.pods import running_pods
from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.runtime import NAMESPACE as CNI_NAMESPACE
from tests.faults.cluster.runtime import Runtime
from tests.faults.cluster.stage import CALL_S, SEEDS, Stage, until
from tests.faults.storm.checker import History, find_wrongs
from tests.faults.storm.clients import GRACE, PodKeeper, Reader, Writer, actors_of
from tests.faults.storm.followers import (
    Notes,
    follow_member,
    follow_replica,
    merged_log,
    sample_agent,
    sample_replica,
)
from tests.faults.storm.nemesis import Nemesis
from tests.faults.storm.probes import NAMESPACE, POLICY_DROPS, Probed, Prober, probe_wrongs
from tests.faults.storm.record import Sample, save_records
from tests.faults.storm.schedule import DECK, Fault, planned

WRITERS = 3
ROUNDS = int(os.environ.get("KILIM_FAULT_ROUNDS", str(len(DECK))))
RATE = float(os.environ.get("KILIM_FAULT_RATE", "6"))
PROBES = float(os.environ.get("KILIM_FAULT_PROBES", "1000"))
SAMPLE_EVERY_S = 0.3
CONVERGED_S = 120.0
HISTORIES = Path("build/faults")
# A storm has no end of its own but its schedule's; per fault, with all the patience that a slow machine needs.
TIMEOUT_S = 300 + 30 * ROUNDS


@dataclass(slots=True)
class Storm:
    """Everybody who takes part in one run."""

    stage: Stage
    seed: int
    writers: list[Writer]
    reader: Reader
    pods: PodKeeper
    replica_notes: list[Notes]
    member_notes: list[Notes]
    samples: list[Sample] = field(default_factory=list)

    async def rage(self, plan: Sequence[Fault], nemesis: Nemesis) -> None:
        """Until the schedule is through and all has come to rest at one seq."""
        ending = asyncio.Event()
        watchers = await self._watch()
        try:
            async with asyncio.TaskGroup() as group:
                for writer in self.writers:
                    group.create_task(writer.write(ending), name=f"writer {writer.number}")
                group.create_task(self.reader.read(ending), name="reader")
                group.create_task(self.pods.keep(ending), name="pods")
                await nemesis.carry_out(plan)
                ending.set()
            await self.stage.check_agreement(CONVERGED_S)
            await until("every follower has everything", self._followed, CONVERGED_S)
        finally:
            for watcher in watchers:
                watcher.cancel()
            for watcher in watchers:
                with suppress(asyncio.CancelledError):
                    await watcher

    async def _watch(self) -> list[asyncio.Task[None]]:
        stage, lab = self.stage, self.stage.lab
        replicas = zip(stage.replicas, self.replica_notes, strict=True)
        members = zip(lab.etcd, self.member_notes, strict=True)
        work = [follow_replica(replica, notes) for replica, notes in replicas]
        work += [follow_member(lab, member, notes) for member, notes in members]
        work += [sample_replica(replica, self.samples, SAMPLE_EVERY_S) for replica in stage.replicas]
        work += [sample_agent(stage, node, self.samples, SAMPLE_EVERY_S) for node in lab.agent_processes]
        return [asyncio.create_task(each, name="watch") for each in work]

    async def _followed(self) -> bool:
        head = max([(await replica.status()).seq for replica in self.stage.replicas])
        behind = [f"{notes.name} at {notes.last_seq}" for notes in self.followers if notes.last_seq < head]
        assert not behind, f"head {head}: {', '.join(behind)}"
        return True

    @property
    def followers(self) -> list[Notes]:
        return [*self.replica_notes, *self.member_notes]

    async def history(self) -> tuple[History, list[str]]:
        log, wrongs = merged_log(await self.stage.read_log(), self.followers)
        history = History(log, self.writers[0].run, samples=self.samples, readings=self.reader.notes)
        history.operations = [note for writer in self.writers for note in writer.notes] + self.pods.notes
        history.sightings = [sighting for notes in self.followers for sighting in notes.sightings]
        return history, wrongs

    async def pods_are_theirs(self) -> list[str]:
        """The endpoints in the log are the containers that there are."""
        state = await self.stage.folded()
        logged = {e.container_id for e in state.endpoints.values() if e.namespace == CNI_NAMESPACE}
        return [f"the log has the containers {logged}"] if logged != set(self.pods.runtime.live) else []


def prepared(stage: Stage, seed: int) -> Storm:
    def chance(who: object) -> random.Random:
        return random.Random(f"{seed} {who}")

    writers = [Writer(actors_of(seed), n, stage.replicas, chance(n), RATE) for n in range(WRITERS)]
    return Storm(
        stage,
        seed,
        writers,
        Reader(stage.replicas, chance("reader"), 3.0),
        PodKeeper(f"pod-{seed}-", Runtime(stage.lab), stage.lab.agent_processes, chance("pods")),
        [Notes(replica.name) for replica in stage.replicas],
        [Notes(member.name) for member in stage.lab.etcd],
    )


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_storm_breaks_no_promise(stage: Stage, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    plan, storm, nemesis = planned(seed, ROUNDS), prepared(stage, seed), Nemesis(stage)
    prober = Prober(running_pods(stage.lab), PROBES)
    file = HISTORIES / f"storm-{seed}.jsonl"
    drops_before = await policy_drops(stage)
    try:
        await prober.start()
        try:
            await storm.rage(plan, nemesis)
        finally:
            probed = await prober.stop()
            drops = await policy_drops(stage) - drops_before
            history, wrongs = await storm.history()
            save_records(file, [*history.records(), *nemesis.injected])
        wrongs += find_wrongs(history) + probe_wrongs(probed, nemesis.injected, drops)
        wrongs += await storm.pods_are_theirs()
        told(capsys, storm, history, probed, nemesis)
        assert not wrongs, f"{len(wrongs)} promises broken: " + "\n".join(wrongs[:20])
        acknowledged = sum(operation.outcome == "ok" for operation in history.operations)
        assert acknowledged > 5 * ROUNDS, f"only {acknowledged} acknowledged: hardly anything was done"
        assert probed.total(True) and probed.total(False)
    except BaseException:
        print(f"seed {seed}, KILIM_FAULT_ROUNDS={ROUNDS}, histories in {file.resolve()}; the schedule:")
        print("\n".join(f"  {fault}" for fault in plan))
        print("what was done:", *nemesis.injected, sep="\n  ")
        raise
    finally:
        await prober.abandon()
        await calm(storm)


def told(capsys: pytest.CaptureFixture[str], storm: Storm, history: History, probed: Probed, nemesis: Nemesis) -> None:
    outcomes = {
        o: sum(each.outcome == o for each in history.operations) for o in ("ok", "refused", "not done", "unknown")
    }
    with capsys.disabled():
        print(f"\nstorm {storm.seed}: {len(nemesis.injected)} faults, {history.log[-1].last_seq} events")
        print(
            f"  operations: {outcomes}; {len(storm.pods.notes)} pods, {storm.pods.runtime.refused} CNI calls repeated"
        )
        print(f"  {len(history.sightings)} sightings, {len(history.samples)} samples, {len(history.readings)} lists")
        print(f"  probes: {probed}")
        print(
            *(f"  {each.fault} {', '.join(each.victims)}: {each.note}" for each in nemesis.injected if each.note),
            sep="\n",
        )


async def policy_drops(stage: Stage) -> int:
    """Packets that the datapath of all nodes has dropped by policy; the counters outlive the agents."""
    counts = [count for node in stage.lab.agent_processes for count in (await stage.agent_status(node)).counts]
    return sum(count.packets for count in counts if count.reason in POLICY_DROPS)


async def calm(storm: Storm) -> None:
    """Nothing of the storm is left for the next one."""
    stage = storm.stage
    for process in (*stage.replica_names, *stage.lab.agent_processes):
        faults.set_clock(stage.lab, process, 0)
    await stage.mend()
    await stage.replicas[0].cluster.ChangeSetting(api.ChangeSettingRequest(name=GRACE), timeout=CALL_S)
    await storm.pods.clear()
    for writer in storm.writers:
        for kind, namespace, name in {note.key for note in writer.notes if note.kind != "Setting"}:
            with suppress(grpc.aio.AioRpcError):
                await stage.replicas[0].delete(kind, namespace or ("" if kind == "Namespace" else NAMESPACE), name)
