"""Who watches while faults rage: a subscriber of each replica, a follower at each etcd member, and who samples digests.

Easy to get wrong: a session ends where a follower could not go on where it was; only within one must all be dense.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import grpc
import grpc.aio

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, Commit, decode_commit
from kilim.kvstore.errors import KvError
from kilim.kvstore.log import EventLog
from kilim.lab.commands import CLUSTER
from kilim.lab.topology import Lab, Server
from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.stage import Replica, Stage
from tests.faults.storm.record import Sample, Sighting
from tests.faults.storm.stage import Archive

PAUSE_S = 0.1
SAMPLE_S = 1.0
COMPARED = ("state_comparison", "table_comparison", "kernel_comparison")
START_ANEW = {grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.FAILED_PRECONDITION}


@dataclass(slots=True)
class Notes:
    """What one follower saw; the commits themselves go to the archive."""

    name: str
    archive: Archive
    sightings: list[Sighting] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    session: int = 0
    last_seq: int = 0
    chain: bytes = CHAIN_START

    def begin_anew(self, why: str) -> None:
        self.troubles.append(f"session {self.session} ended at {self.last_seq}: {why}")
        self.session, self.last_seq, self.chain = self.session + 1, 0, CHAIN_START

    def take(self, commit: Commit) -> None:
        self.archive.add(commit, self.name)
        self._see(commit.first_seq, commit.last_seq, commit.chain_before, commit.chain_after, False)

    def take_snapshot(self, seq: int, chain: bytes) -> None:
        self._see(seq, seq, b"", chain, True)

    def _see(self, first_seq: int, last_seq: int, before: bytes, after: bytes, snapshot: bool) -> None:
        now = time.monotonic_ns()
        self.sightings.append(Sighting(self.name, self.session, now, first_seq, last_seq, before, after, snapshot))
        self.last_seq, self.chain = last_seq, after


async def follow_replica(replica: Replica, notes: Notes) -> None:
    """For ever, as an agent follows: from where it is, anew where the replica says so."""
    while True:
        request = api.SubscribeRequest(node="watcher", from_seq=notes.last_seq + 1)
        if notes.last_seq:
            request.chain_before = notes.chain
        try:
            async for message in replica.nodes.Subscribe(request):
                _take_message(message, notes)
        except grpc.aio.AioRpcError as error:
            if error.code() in START_ANEW:
                notes.begin_anew(f"{error.code().name}: {error.details()}")
        await asyncio.sleep(PAUSE_S)


def _take_message(message: api.SubscribeResponse, notes: Notes) -> None:
    match message.WhichOneof("what"):
        case "commit":
            notes.take(decode_commit(message.commit))
        case "commits":
            for encoded in message.commits.commits:
                notes.take(decode_commit(encoded))
        case "snapshot" if message.snapshot.last:
            notes.take_snapshot(message.snapshot.seq, message.snapshot.chain)
        case "head" if message.head.seq != notes.last_seq or message.head.chain not in (b"", notes.chain):
            notes.contradictions.append(
                f"7: {notes.name} has {notes.last_seq}, and was told that {message.head} is all"
            )


async def follow_member(lab: Lab, member: Server, notes: Notes) -> None:
    """For ever, at one etcd member alone."""
    client = EtcdClient([f"http://{member.loopback}"])
    try:
        log = EventLog(client, CLUSTER)
        while True:
            try:
                async with aclosing(log.follow(notes.last_seq + 1, notes.chain)) as commits:
                    async for commit in commits:
                        notes.take(commit)
            except KvError as error:
                if first_seq := getattr(error, "first_seq", 0):  # trimmed meanwhile: what follows is followed
                    notes.begin_anew(str(error))
                    first = await _first_held(log, first_seq)
                    if first is not None:
                        notes.take(first)
                else:
                    notes.troubles.append(f"at {notes.last_seq}: {type(error).__name__}: {error}")
            await asyncio.sleep(PAUSE_S)
    finally:
        await client.close()


async def _first_held(log: EventLog, first_seq: int) -> Commit | None:
    try:
        async with aclosing(log.read(first_seq, first_seq)) as commits:
            return await anext(commits, None)
    except KvError:
        return None


async def sample_replica(replica: Replica, samples: list[Sample], every_s: float) -> None:
    """For ever."""
    while True:
        try:
            status = await replica.status(SAMPLE_S)
        except grpc.aio.AioRpcError:
            pass
        else:
            alarms = tuple(_alarms(status))
            now = time.monotonic_ns()
            samples.append(Sample(replica.name, now, status.seq, status.chain, status.state_digest, alarms=alarms))
        await asyncio.sleep(every_s)


def _alarms(status: api.StatusResponse) -> Sequence[str]:
    """Nothing may differ from anything, whatever happens to processes and wires."""
    found = []
    for node in status.nodes:
        for what in COMPARED:
            if getattr(node, what) == api.DIFFERS:
                found.append(f"{what} of {node.name} at {node.seq} differs")
        if node.drift_repairs:
            found.append(f"{node.name} found {node.drift_repairs} rows wrong in its kernel")
    for replica in status.replicas:
        if replica.comparison == api.DIFFERS:
            found.append(f"{replica.name} differs at {replica.compared_seq}")
    return found


async def sample_agent(stage: Stage, node: str, samples: list[Sample], every_s: float) -> None:
    """For ever."""
    while True:
        try:
            status = await stage.agent_status(node)
        except grpc.aio.AioRpcError:
            pass
        else:
            if status.in_sync and status.seq:
                now = time.monotonic_ns()
                samples.append(Sample(node, now, status.seq, b"", status.state_digest, node, status.table_digest))
        await asyncio.sleep(every_s)
