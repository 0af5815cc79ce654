"""Concurrent clients that note what they asked and what they were told, and the check of their notes against the log.

What is asked is told apart by its actor, so that its events are found in the log. What must hold:
 1. Acknowledged as a change: exactly one event. As no change, or surely not done: none. Unknown: at most one.
 2. The seq that was answered includes the event.
 3. What was acknowledged before something else was asked is before it in the log (linearizability of the one log).
 4. A client tries an unknown command again until it is acknowledged; both tries together leave one event.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from kilim.kvstore.commit import Commit
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import events_pb2
from tests.faults.cluster.stage import Replica

ATTEMPT_S = 1.5
PAUSE_S = 0.03  # two cores are shared by all
NAMESPACE = "shop"
GHOST = "ghost"  # a node that has no agent: endpoints on it come and go by these clients alone
GHOST_CIDR = "10.244.200.0/24"
# What a replica itself says where it has surely done nothing; other UNAVAILABLEs are of the connection.
_SURELY_NOT = ("etcd is unreachable", "this replica has not read", "not tried:", "the log's head cannot be read")


@dataclass(slots=True)
class Asked:
    """One command with all its tries. `told` is empty while nobody has acknowledged it."""

    name: str
    what: str
    asked_at: float
    told_at: float = 0.0
    told: str = ""
    seq: int = 0
    maybe: int = 0  # tries of which the outcome is unknown

    @property
    def changed(self) -> bool:
        return self.told in ("created", "configured", "deleted")


@dataclass(slots=True)
class Client:
    """`own` are objects that no other client touches; `shared` ones are fought over."""

    run_name: str
    number: int
    replicas: Sequence[Replica]
    chance: random.Random
    notes: list[Asked] = field(default_factory=list)

    async def run(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            kind = self.chance.choices(("own", "shared", "endpoint"), (5, 3, 2))[0]
            await (self._endpoint() if kind == "endpoint" else self._policy(kind == "shared"))
            await asyncio.sleep(self.chance.uniform(0, 2 * PAUSE_S))

    async def _policy(self, shared: bool) -> None:
        op = len(self.notes)
        name = f"shared-{self.chance.randrange(3)}" if shared else f"own-{self.number}-{self.chance.randrange(4)}"
        deletes = self.chance.random() < 0.3
        asked = Asked(
            f"{self.run_name}-{self.number}-{op}", f"{'delete' if deletes else 'apply'} {name}", time.monotonic()
        )
        self.notes.append(asked)
        cidr = f"100.{64 + self.number}.{op // 256}.{op % 256}/32"

        async def call(replica: Replica) -> tuple[str, int]:
            if deletes:
                answer: Any = await replica.delete("NetworkPolicy", NAMESPACE, name, asked.name, ATTEMPT_S)
            else:
                answer = await replica.apply(policy(name, cidr), actor=asked.name, timeout_s=ATTEMPT_S)
            return answer.results[0].action, answer.seq

        # Others may undo a shared object's first try, so that a second one would rightly change it again.
        await self._ask(asked, call, again=not shared)

    async def _endpoint(self) -> None:
        op = len(self.notes)
        asked = Asked(f"{self.run_name}-{self.number}-{op}", "endpoint", time.monotonic())
        self.notes.append(asked)
        place = self.number * 40 + op % 40 + 2
        register = api.RegisterEndpointRequest(
            node=GHOST, namespace="history", name=f"pod-{place}", container_id=asked.name, ip=f"10.244.200.{place}",
            endpoint_id=place, labels={"app": f"app{self.number}"},
        )  # fmt: skip

        async def call(replica: Replica) -> tuple[str, int]:
            return "created", (await replica.nodes.RegisterEndpoint(register, timeout=ATTEMPT_S)).seq

        await self._ask(asked, call, again=True)

    async def _ask(self, asked: Asked, call: Any, again: bool) -> None:
        while not asked.told:
            replica = self.chance.choice(self.replicas)
            try:
                asked.told, asked.seq = await call(replica)
                asked.told_at = time.monotonic()
            except grpc.aio.AioRpcError as error:
                surely_not = error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(
                    _SURELY_NOT
                )
                asked.maybe += not surely_not
                if not again and asked.maybe:
                    return
                await asyncio.sleep(PAUSE_S)


def policy(name: str, *cidrs: str, app: str = "db", peer: str = "nobody", port: int = 5432) -> dict[str, Any]:
    """Of a pod that is closed already. Allows nobody who is there by default: rows change, verdicts do not."""
    peers: list[dict[str, Any]] = [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]
    peers.append({"podSelector": {"matchLabels": {"app": peer}}})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers, "ports": [{"port": port}]}],
        },
    }


def places_of(commits: Sequence[Commit]) -> dict[str, list[int]]:
    """By the name of a command: the seqs of its events. An identity allocated on the way is no effect of its own."""
    places: dict[str, list[int]] = defaultdict(list)
    for commit in commits:
        for seq, record in enumerate(commit.records, commit.first_seq):
            event = events_pb2.Event.FromString(record)
            body = event.WhichOneof("body")
            if body in ("endpoint_added", "endpoint_updated"):
                places[getattr(event, body).endpoint.container_id].append(seq)
            elif body in ("policy_replaced", "policy_removed"):
                places[event.actor].append(seq)
    return places


def wrongs(notes: Sequence[Asked], commits: Sequence[Commit]) -> list[str]:
    places = places_of(commits)
    found = []
    for asked in notes:
        seqs = places.get(asked.name, [])
        # of a try that went unanswered before, the one that was told "unchanged" may have found the effect
        least, most = (1, 1) if asked.changed else (0, 1 if asked.maybe else 0)
        if not least <= len(seqs) <= most:
            found.append(f"{asked} left the events {seqs}")
        if asked.told and seqs and asked.seq < seqs[0]:
            found.append(f"{asked} has its event at {seqs[0]}")
    return found + _out_of_order(notes, places)


def _out_of_order(notes: Sequence[Asked], places: dict[str, list[int]]) -> list[str]:
    """Newest place of all that was acknowledged before something was asked, against that thing's own place."""
    with_events = [asked for asked in notes if places.get(asked.name)]
    told = sorted((asked for asked in with_events if asked.told), key=lambda each: each.told_at)
    found, index, newest = [], 0, (0, "")
    for asked in sorted(with_events, key=lambda each: each.asked_at):
        while index < len(told) and told[index].told_at < asked.asked_at:
            newest = max(newest, (places[told[index].name][-1], told[index].name))
            index += 1
        if places[asked.name][0] <= newest[0]:
            found.append(f"{asked} is at {places[asked.name][0]}, {newest[1]} of before it at {newest[0]}")
    return found
