"""Who writes and reads at a steady rate while faults rage, through whichever replica chance picks, and notes all of it.

Easy to get wrong: every try has an actor of its own and is never repeated, so that what is unknown stays one try.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.runtime import NAMESPACE as CNI_NAMESPACE
from tests.faults.cluster.runtime import Runtime
from tests.faults.cluster.stage import Replica
from tests.faults.storm.probes import NAMESPACE as PROBED
from tests.faults.storm.record import NOT_DONE, OK, REFUSED, UNKNOWN, Operation, Reading

ATTEMPT_S = 2.0
CNI_PATIENCE_S = 240.0
SHARED, OWN = 3, 4
LISTED = ("NetworkPolicy", "Namespace", "Pod", "Endpoint")
GRACE = "identity-release-grace-s"
_NOT_APPLIED = "kilim-not-applied"
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

Told = tuple[str, int]  # action, seq


def actors_of(seed: int) -> str:
    """How the actors of a storm begin."""
    return f"storm{seed}-"


@dataclass(slots=True)
class Writer:
    """`own` objects are touched by no other; `shared` ones are fought over."""

    run: str
    number: int
    replicas: Sequence[Replica]
    chance: random.Random
    rate: float
    notes: list[Operation] = field(default_factory=list)

    async def write(self, ending: asyncio.Event) -> None:
        due = time.monotonic()
        while not ending.is_set():
            await self._change(self.chance.choices(("NetworkPolicy", "Namespace", "Pod", "Setting"), (6, 2, 2, 1))[0])
            due = max(due + 1 / self.rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _change(self, kind: str) -> None:
        actor = f"{self.run}{self.number}-{len(self.notes)}"
        shared = self.chance.random() < 0.4
        name = (
            f"shared-{self.chance.randrange(SHARED)}" if shared else f"own-{self.number}-{self.chance.randrange(OWN)}"
        )
        replica = self.chance.choice(self.replicas)
        if kind == "Setting":
            value = str(self.chance.choice((2, 5, 30)))
            request = api.ChangeSettingRequest(name=GRACE, value=value, actor=actor)

            async def change() -> Told:
                return "held", (await replica.cluster.ChangeSetting(request, timeout=ATTEMPT_S)).seq

            await self._ask(replica, actor, (kind, "", GRACE), value, change)
            return
        namespace = "" if kind == "Namespace" else PROBED
        if self.chance.random() < 0.3:

            async def delete() -> Told:
                answer = await replica.delete(kind, namespace, name, actor, ATTEMPT_S)
                return answer.results[0].action, answer.seq

            await self._ask(replica, actor, (kind, namespace, name), "", delete)
            return
        body = object_body(kind, namespace, name, self.chance.randrange(5))

        async def apply() -> Told:
            answer = await replica.apply(body, actor=actor, timeout_s=ATTEMPT_S)
            return answer.results[0].action, answer.seq

        await self._ask(replica, actor, (kind, namespace, name), json.dumps(body, sort_keys=True), apply)

    async def _ask(
        self, replica: Replica, actor: str, key: tuple[str, str, str], body: str, call: Callable[[], Awaitable[Told]]
    ) -> None:
        asked_ns = time.monotonic_ns()
        action, seq, detail = "", 0, ""
        try:
            action, seq = await call()
            outcome = OK
        except grpc.aio.AioRpcError as error:
            outcome, detail = _outcome(error), f"{error.code().name}: {error.details()}"
        answered_ns = time.monotonic_ns()
        self.notes.append(
            Operation(actor, *key, body, replica.name, asked_ns, answered_ns, outcome, action, seq, detail)
        )


def _outcome(error: grpc.aio.AioRpcError) -> str:
    if error.code() in _REFUSALS:
        return REFUSED
    surely_not = any(key == _NOT_APPLIED for key, _ in error.trailing_metadata() or ())
    return NOT_DONE if surely_not else UNKNOWN


def object_body(kind: str, namespace: str, name: str, variety: int) -> dict[str, Any]:
    """Of policies: about pods under traffic, of whose verdicts it changes none."""
    where = {"namespace": namespace} if namespace else {}
    labels = {"app": f"nobody-{variety}"}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **where, "labels": labels}}
    if kind == "Pod":
        body["spec"] = {"serviceAccountName": "default", "containers": [{"name": "app"}]}
    if kind == "NetworkPolicy":
        peers = [{"podSelector": {"matchLabels": labels}}, {"ipBlock": {"cidr": f"203.0.113.{variety}/32"}}]
        known = {"podSelector": {"matchLabels": {"app": "stranger" if variety % 2 else "client"}}}
        body["apiVersion"] = "networking.k8s.io/v1"
        body["metadata"].pop("labels")
        body["spec"] = {
            "podSelector": {"matchLabels": {"app": "server"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}, {"from": [known], "ports": [{"port": 9000 + variety}]}],
        }
    return body


@dataclass(slots=True)
class Reader:
    replicas: Sequence[Replica]
    chance: random.Random
    rate: float
    notes: list[Reading] = field(default_factory=list)

    async def read(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            replica, kind = self.chance.choice(self.replicas), self.chance.choice(LISTED)
            asked_ns = time.monotonic_ns()
            try:
                answer = await replica.resources.List(api.ListRequest(kind=kind), timeout=ATTEMPT_S)
            except grpc.aio.AioRpcError:
                pass
            else:
                names = tuple(sorted(f"{item.namespace}/{item.name}" for item in answer.items))
                self.notes.append(Reading(replica.name, kind, asked_ns, time.monotonic_ns(), answer.seq, names))
            await asyncio.sleep(1 / self.rate)


@dataclass(slots=True)
class PodKeeper:
    """Pods come and go by CNI, as a kubelet does it: again until it succeeds."""

    run: str  # begins the names of its pods
    runtime: Runtime
    nodes: Sequence[str]
    chance: random.Random
    most: int = 4
    notes: list[Operation] = field(default_factory=list)

    async def keep(self, ending: asyncio.Event) -> None:
        number = 0
        while not ending.is_set():
            live = list(self.runtime.live.values())
            if len(live) >= self.most:
                await self.runtime.delete(self.chance.choice(live), CNI_PATIENCE_S)
            else:
                number += 1
                await self._add(f"{self.run}{number % 8}", self.chance.choice(self.nodes))

    async def _add(self, pod: str, node: str) -> None:
        for old in [each for each in self.runtime.live.values() if each.pod == pod]:
            await self.runtime.delete(old, CNI_PATIENCE_S)
        sandbox = self.runtime.sandbox(pod, node)
        asked_ns = time.monotonic_ns()
        await self.runtime.add(sandbox, CNI_PATIENCE_S)
        key = ("Endpoint", CNI_NAMESPACE, pod)
        self.notes.append(Operation(sandbox.container_id, *key, "", node, asked_ns, time.monotonic_ns(), OK, "added"))

    async def clear(self) -> None:
        for sandbox in list(self.runtime.live.values()):
            await self.runtime.delete(sandbox, CNI_PATIENCE_S)
