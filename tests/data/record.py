"""Records a log of this version for ever: `.venv/bin/python -m tests.data.record NAME` writes tests/data/logs/NAME.

A recorded log is added, never edited: run it under a new name when events, the fold, tables or digests gain something,
commit what it writes, and leave the older ones as they are; tests/pure/model/test_recorded_logs.py replays all of them.
The history is made through a real replica over a real etcd, some hundred events of every kind, with two records that no
version understands; beside the segments stand a snapshot of the middle and, in expected.json, for several events the
chain, the state digest, and the table digest of each node by the definition (`desired_tables`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.commit import CHAIN_START, chain_next
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.kvstore.log import EventLog
from kilim.kvstore.segments import write_segments, write_snapshot
from kilim.kvstore.snapshots import SnapshotStore
from kilim.model.desired import desired_tables
from kilim.model.fold import fold_record
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from kilim.v1.events_pb2 import Event
from tests.contract.controlplane.harness import PATIENCE_S, Running, replica

LOGS = Path(__file__).parent / "logs"
ACTIONS = 320
EXPECTED_EVERY = 40
CLUSTER = "recorded"
NOT_AN_EVENT = b"\xff\xff\xff"
OF_A_LATER_VERSION = Event(actor="later").SerializeToString() + b"\xfa\x3e\x03abc"  # field 1007
NODES = ("node1", "node2", "node3")
NAMESPACES = ("shop", "web", "ops")
SELECTORS: tuple[dict[str, Any], ...] = (
    {},
    {"matchLabels": {"app": "db"}},
    {"matchLabels": {"app": "api"}},
    {"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "cache"]}]},
    {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
)
PEERS: tuple[dict[str, Any], ...] = (
    {"podSelector": {"matchLabels": {"app": "api"}}},
    {"namespaceSelector": {"matchLabels": {"team": "a"}}},
    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "cache"}}},
    {"ipBlock": {"cidr": "192.0.2.0/24"}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16", "10.10.1.0/24"]}},
)
PORTS: tuple[dict[str, Any], ...] = (
    {"port": 5432},
    {"port": 53, "protocol": "UDP"},
    {"port": 8000, "endPort": 8100},
    {"port": "http"},
    {"protocol": "SCTP"},
)
CILIUM_RULES: tuple[dict[str, Any], ...] = (
    {"toServices": [{"k8sService": {"serviceName": "a", "namespace": "shop"}}]},
    {"toServices": [{"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "back"}}, "namespace": ""}}]},
    {"toEntities": ["kube-apiserver"], "toPorts": [{"ports": [{"port": "6443", "protocol": "TCP"}]}]},
    {"toCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.2/32"]}]},
    {"toEndpoints": [{"matchLabels": {"app": "db"}}], "icmps": [{"fields": [{"type": 8}]}]},
)
SETTINGS = (("identity-release-grace-s", "0"), ("identity-release-grace-s", "600"), ("read-back-interval-s", "10"))


@dataclass(slots=True)
class Recorder:
    """Does something to the cluster, chosen by a seed; what the replica refuses has simply not happened."""

    replica: Running
    random: Random
    ids: dict[str, int] = field(default_factory=dict)

    async def act(self) -> None:
        actions: dict[Callable[[], Awaitable[Any]], int] = {
            self.pod: 5, self.endpoint: 8, self.endpoint_gone: 4, self.policy: 6, self.gone: 5,
            self.namespace: 3, self.node: 5, self.setting: 1, self.service: 3, self.slice: 4, self.cilium: 4,
        }  # fmt: skip
        chosen = self.random.choices(list(actions), list(actions.values()))[0]
        with contextlib.suppress(grpc.aio.AioRpcError):
            await chosen()

    async def apply(self, kind: str, version: str, name: str, namespace: str = "", **more: Any) -> None:
        labels = more.pop("labels", {})
        metadata = {"name": name, "labels": labels, **({"namespace": namespace} if namespace else {})}
        manifest = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
        request = api.ApplyRequest(manifests=[api.Manifest(json=json.dumps(manifest))], actor="cli:ann@desk")
        await self.replica.resources.Apply(request, timeout=PATIENCE_S)

    async def gone(self) -> None:
        kind = self.random.choice(
            ("Pod", "NetworkPolicy", "CiliumNetworkPolicy", "Namespace", "Service", "EndpointSlice")
        )
        namespace = self.random.choice(NAMESPACES)
        name = namespace if kind == "Namespace" else self.random.choice("abcd")
        await self.delete(kind, "" if kind == "Namespace" else namespace, name)

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        ref = api.ResourceRef(kind=kind, namespace=namespace, name=name)
        await self.replica.resources.Delete(api.DeleteRequest(refs=[ref], actor="cli:bob@desk"), timeout=PATIENCE_S)

    async def namespace(self) -> None:
        labels = {"team": self.random.choice("ab")}
        await self.apply("Namespace", "v1", self.random.choice(NAMESPACES), labels=labels)

    def labels(self) -> dict[str, str]:
        labels = {"app": self.random.choice(("db", "api", "cache"))}
        return labels | ({"tier": "back"} if self.random.random() < 0.3 else {})

    async def pod(self) -> None:
        number = self.random.choice((80, 8080))
        ports = [{"name": "http", "containerPort": number, "protocol": "TCP"}]
        spec = {"containers": [{"name": "main", "image": "x", "ports": ports}]}
        namespace, name = self.random.choice(NAMESPACES), self.random.choice("abcd")
        await self.apply("Pod", "v1", name, namespace, spec=spec, labels=self.labels())

    async def policy(self) -> None:
        choose = self.random.choice
        rules = [
            {side: [choose(PEERS) for _ in range(choose((1, 1, 2)))], "ports": [choose(PORTS)]}
            for side in ("from", "to")
        ]
        spec = {"podSelector": choose(SELECTORS), "policyTypes": ["Ingress", "Egress"][: choose((1, 2))]}
        spec["ingress"] = choose(([], [rules[0]], [{"ports": [choose(PORTS)]}, rules[0]]))
        if "Egress" in spec["policyTypes"]:
            spec["egress"] = choose(([], [{}], [rules[1]]))
        version = "networking.k8s.io/v1"
        await self.apply("NetworkPolicy", version, choose("abcd"), choose(NAMESPACES), spec=spec)

    async def service(self) -> None:
        selector = self.random.choice(({}, {"app": "db"}, {"app": "api"}))
        spec = {"selector": selector, "ports": [{"port": self.random.choice((80, 5432))}]}
        labels = self.random.choice(({}, {"tier": "back"}))
        await self.apply(
            "Service", "v1", self.random.choice("aab"), self.random.choice(NAMESPACES), spec=spec, labels=labels
        )

    async def slice(self) -> None:
        choose = self.random.choice
        ips = [*(f"192.0.2.{number}" for number in range(1, 5)), "198.51.100.1", "198.51.100.2"]
        endpoints = [{"addresses": [choose(ips)]} for _ in range(choose((0, 1, 3)))]
        body = {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]}
        namespace = choose((*NAMESPACES, "default"))
        service = "kubernetes" if namespace == "default" else choose("aab")
        labels = {"kubernetes.io/service-name": service}
        await self.apply("EndpointSlice", "discovery.k8s.io/v1", choose("abcd"), namespace, labels=labels, **body)

    async def cilium(self) -> None:
        section = self.random.choice(("egress", "egress", "egressDeny"))
        rules = self.random.sample(CILIUM_RULES, self.random.choice((1, 2)))
        spec = {"endpointSelector": {"matchLabels": self.random.choice(({}, {"app": "api"}))}, section: rules}
        name, namespace = self.random.choice("abc"), self.random.choice(NAMESPACES)
        await self.apply("CiliumNetworkPolicy", "cilium.io/v2", name, namespace, spec=spec)

    async def endpoint(self) -> None:
        node, namespace, name = (self.random.choice(names) for names in (NODES, NAMESPACES, "abcd"))
        number = self.ids.setdefault(f"{node}/{namespace}/{name}", len(self.ids) + 2)
        request = api.RegisterEndpointRequest(
            node=node, namespace=namespace, name=name, container_id=f"c{self.random.randrange(3)}",
            ip=f"10.244.{NODES.index(node)}.{number}", endpoint_id=number, labels=self.labels(),
        )  # fmt: skip
        await self.replica.nodes.RegisterEndpoint(request, timeout=PATIENCE_S)

    async def endpoint_gone(self) -> None:
        node, namespace, name = (self.random.choice(names) for names in (NODES, NAMESPACES, "abcd"))
        request = api.RemoveEndpointRequest(node=node, namespace=namespace, name=name, cause="cni DEL")
        await self.replica.nodes.RemoveEndpoint(request, timeout=PATIENCE_S)

    async def node(self) -> None:
        """Rarely away, mostly there, now and then on another address."""
        index = self.random.randrange(len(NODES))
        if self.random.random() < 0.05:
            await self.delete("Node", "", NODES[index])
        else:
            address = f"198.51.100.{index + 1 + 10 * self.random.randrange(2)}"
            await self.replica.register_node(NODES[index], address, f"10.244.{index}.0/24")

    async def setting(self) -> None:
        name, value = self.random.choice(SETTINGS)
        request = api.ChangeSettingRequest(name=name, value=value, actor="cli:ann@desk")
        await self.replica.cluster.ChangeSetting(request, timeout=PATIENCE_S)


async def make_history(running: Running, log: EventLog) -> None:
    recorder = Recorder(running, Random(1))
    for index, node in enumerate(NODES):
        await running.register_node(node, f"198.51.100.{index + 1}", f"10.244.{index}.0/24")
    for number in range(ACTIONS):
        await recorder.act()
        if number in (ACTIONS // 3, ACTIONS // 2):
            strange = NOT_AN_EVENT if number == ACTIONS // 3 else OF_A_LATER_VERSION
            _, head = await log.append(await log.head(), [strange])
            await running.until(lambda status, last=head.last_seq: status.seq >= last)  # type: ignore[misc]
    await recorder.apply("Service", "v1", "last", "shop", spec={"ports": [{"port": 80}]})
    await recorder.apply("EndpointSlice", "discovery.k8s.io/v1", "last", "shop", addressType="IPv4")
    for kind in ("EndpointSlice", "Service"):
        await recorder.delete(kind, "shop", "last")
    for name in ("last1", "last2"):  # identities of their own, so that some are released for certain
        await running.register_endpoint("node1", name, f"10.244.0.{200 + len(name)}", 200 + len(name), app=name)
        gone = api.RemoveEndpointRequest(node="node1", namespace="shop", name=name)
        await running.nodes.RemoveEndpoint(gone, timeout=PATIENCE_S)
    setting = api.ChangeSettingRequest(name="identity-release-grace-s", value="0", actor="cli:ann@desk")
    seq = (await running.cluster.ChangeSetting(setting, timeout=PATIENCE_S)).seq
    await running.until(lambda status: status.seq > seq)  # the leader releases what nobody uses


async def write(log: EventLog, store: SnapshotStore, directory: Path) -> bytes:
    """Segments, a snapshot of the middle, expected.json; returns the state digest of the end."""
    state, chain = State(), CHAIN_START
    expected: dict[str, Any] = {}
    commits = [commit async for commit in log.read(1)]
    middle = commits[len(commits) // 2]
    for commit in commits:
        for seq, record in enumerate(commit.records, commit.first_seq):
            fold_record(state, seq, record)
            chain = chain_next(chain, record)
            if seq % EXPECTED_EVERY == 0 or seq == commits[-1].last_seq:
                tables = {node: desired_tables(state, node).digest().hex() for node in NODES}
                expected[str(seq)] = {"chain": chain.hex(), "state_digest": state.digest.hex(), "tables": tables}
        if commit is middle:
            parts = list(encode_parts(freeze(state), 4096))
            time_ns = Event.FromString(commit.records[-1]).time_ns
            manifest = await store.publish(commit.last_seq, chain, state.digest, time_ns, parts)
            write_snapshot(directory, manifest, parts)
    list(write_segments(directory, commits, 32 << 10))
    (directory / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    return state.digest


async def record(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        async with EmbeddedEtcd(Path(scratch)) as etcd, replica(etcd.endpoints, CLUSTER) as running:
            client = EtcdClient(etcd.endpoints)
            log = EventLog(client, CLUSTER)
            await make_history(running, log)
            digest = await write(log, SnapshotStore(client, CLUSTER), directory)
            assert (await running.status()).state_digest == digest, "the replica has another state than this"
            await client.close()


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isidentifier():
        sys.exit("usage: python -m tests.data.record NAME")
    directory = LOGS / sys.argv[1]
    if directory.exists():
        sys.exit(f"{directory} is there already: recorded logs are added, never edited")
    directory.mkdir(parents=True)
    asyncio.run(record(directory))


if __name__ == "__main__":
    main()
