"""Everybody who takes part in one storm, and its course: all begin, the schedule is carried out, all come to rest."""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.cluster.runtime import NAMESPACE as CNI_NAMESPACE
from tests.faults.cluster.runtime import Runtime
from tests.faults.cluster.stage import until
from tests.faults.storm.checker import History
from tests.faults.storm.clients import PodKeeper, Reader, Writer, actors_of
from tests.faults.storm.followers import Notes, follow_member, follow_replica, sample_agent, sample_replica
from tests.faults.storm.nemesis import Nemesis
from tests.faults.storm.record import Sample
from tests.faults.storm.schedule import Fault
from tests.faults.storm.stage import StormStage

WRITERS = 3
RATE = float(os.environ.get("KILIM_FAULT_RATE", "6"))
LISTS_PER_S = 3.0
SAMPLE_EVERY_S = 0.3
CONVERGED_S = 120.0


@dataclass(slots=True)
class Storm:
    """Everybody who takes part in one run."""

    stage: StormStage
    seed: int
    writers: list[Writer]
    reader: Reader
    pods: PodKeeper
    replica_notes: list[Notes]
    member_notes: list[Notes]
    samples: list[Sample] = field(default_factory=list)
    converged_s: float = 0.0

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
            began = time.monotonic()
            # CNI DEL succeeds without the control plane; the agent tells it as soon as it can
            await until("the log has the containers that there are", self._same_containers, CONVERGED_S)
            await self.stage.check_agreement(CONVERGED_S)
            await until("every follower has everything", self._followed, CONVERGED_S)
            self.converged_s = time.monotonic() - began
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

    def history(self) -> History:
        """As far as it has come."""
        history = History(self.stage.archive.whole(), self.writers[0].run)
        history.operations = [note for writer in self.writers for note in writer.notes] + self.pods.notes
        history.readings, history.samples = self.reader.notes, self.samples
        history.sightings = [sighting for notes in self.followers for sighting in notes.sightings]
        return history

    async def _same_containers(self) -> bool:
        state, live = await self.stage.folded(), set(self.pods.runtime.live)
        logged = {each.container_id for each in state.endpoints.values() if each.namespace == CNI_NAMESPACE}
        assert logged == live, f"the log has {logged}, there are {live}"
        return True

    def wrong_at_rest(self) -> list[str]:
        """What is not as it must be when all agree."""
        found = [wrong for notes in self.followers for wrong in notes.contradictions]
        found += self.stage.archive.contradictions
        return found


def prepared(stage: StormStage, seed: int) -> Storm:
    def chance(who: object) -> random.Random:
        return random.Random(f"{seed} {who}")

    writers = [Writer(actors_of(seed), n, stage.replicas, chance(n), RATE) for n in range(WRITERS)]
    return Storm(
        stage,
        seed,
        writers,
        Reader(stage.replicas, chance("reader"), 3.0),
        PodKeeper(f"pod-{seed}-", Runtime(stage.lab), stage.lab.agent_processes, chance("pods")),
        [Notes(replica.name, stage.archive) for replica in stage.replicas],
        [Notes(member.name, stage.archive) for member in stage.lab.etcd],
    )
