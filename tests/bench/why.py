"""`kilim why` on a large past: 100,000 endpoints come, then 100,000 events of churn, in exported segments.

The time is that of the whole process. Asked at the end and in the middle, with a snapshot every 20,000 events and with
none; the entries of the flow are as old as the log, so that all of it is looked at, and policies change all the time.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kilim.kvstore.commit import CHAIN_START, Commit, encode_commit
from kilim.kvstore.segments import write_segments, write_snapshot
from kilim.kvstore.snapshot import SnapshotManifest, encode_part, part_digest
from kilim.model.fold import fold_record
from kilim.model.identity import Identity
from kilim.model.labels import security_labels
from kilim.model.nouns import Endpoint, Node, Policy, endpoint_to_pb, identity_to_pb, node_to_pb, policy_to_pb
from kilim.model.snapshot import encode_parts, freeze
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.bench.measure import Result, publish, single

ENDPOINTS = 100_000
CHURN = 100_000
SNAPSHOT_EVERY = 20_000
_NODES, _NAMESPACES, _APPS = 400, 50, 20
_ROUNDS = 5
_FLOW = ("--from", "ns3/app3-000153", "--to", "ns3/app2-000103", "--port", "80")


def _namespace(number: int) -> str:
    return f"ns{number % _NAMESPACES}"


def _app(number: int) -> int:
    """1,000 identities: 50 namespaces of 20 apps."""
    return number // _NAMESPACES % _APPS


def _endpoint(number: int) -> Endpoint:
    app = _app(number)
    return Endpoint(
        namespace=_namespace(number),
        name=f"app{app}-{number:06d}",
        node=f"node{number % _NODES}",
        endpoint_id=1 + number // _NODES,
        ip=0x0A800000 + number,
        identity=256 + number % (_NAMESPACES * _APPS),
        container_id=f"{number:064x}",
        labels=(("app", f"app{app}"),),
        service_account="default",
    )


def _policy(namespace: str, app: int, port: int) -> pb.Event:
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": {"app": f"app{app}"}},
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": port}]}],
    }
    manifest = {"kind": "NetworkPolicy", "metadata": {"name": f"app{app}", "namespace": namespace}, "spec": spec}
    noun = Policy("NetworkPolicy", namespace, f"app{app}", json.dumps(manifest, sort_keys=True))
    return pb.Event(policy_replaced=pb.PolicyReplaced(policy=policy_to_pb(noun)))


def _events() -> Iterator[pb.Event]:
    for number in range(_NODES):
        node = Node(f"node{number}", 0x0B000000 + number)
        yield pb.Event(node_joined=pb.NodeJoined(node=node_to_pb(node)))
    for number in range(_NAMESPACES * _APPS):
        labels = security_labels((("app", f"app{_app(number)}"),), _namespace(number), (), "", "default")
        identity = identity_to_pb(Identity(256 + number, labels))
        yield pb.Event(identity_allocated=pb.IdentityAllocated(identity=identity))
    for number in range(_NAMESPACES * 10):
        yield _policy(_namespace(number), number // _NAMESPACES, 80)
    for number in range(ENDPOINTS):
        yield pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(_endpoint(number))))
    chance = random.Random(1)
    for number in range(CHURN // 2):
        if number % 20 == 0:  # a tenth of all events
            for port in (8080, 80):
                yield _policy(_namespace(number // 20), 2 + number // 1000 % 8, port)
            continue
        endpoint = endpoint_to_pb(_endpoint(chance.randrange(200, ENDPOINTS)))
        yield pb.Event(endpoint_removed=pb.EndpointRemoved(namespace=endpoint.namespace, name=endpoint.name))
        yield pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint))


def _commits(snapshots: Path) -> Iterator[Commit]:
    """The log, a hundred events a commit; on the way it writes the snapshots."""
    state, seq, chain = State(), 1, CHAIN_START
    held: list[bytes] = []
    for number, event in enumerate(_events(), 1):
        event.actor, event.cause, event.time_ns = "bench", "bench", number * 10**9
        held.append(event.SerializeToString())
        fold_record(state, number, held[-1])
        if len(held) == 100:
            commit = encode_commit(seq, chain, held)
            seq, chain, held = commit.last_seq + 1, commit.chain_after, []
            yield commit
            if commit.last_seq % SNAPSHOT_EVERY == 0:
                _snapshot(snapshots, state, chain)


def _snapshot(directory: Path, state: State, chain: bytes) -> None:
    frozen = freeze(state)
    parts = list(encode_parts(frozen))
    encoded = [encode_part(part) for part in parts]
    digests, size, records = tuple(map(part_digest, encoded)), sum(map(len, encoded)), sum(map(len, parts))
    manifest = SnapshotManifest(state.seq, chain, frozen.state_digest, state.seq * 10**9, digests, size, records)
    write_snapshot(directory, manifest, parts)


def _why(*words: str) -> float:
    command = [sys.executable, "-m", "kilim.cli.main", "why", *_FLOW, *words, "-o", "json"]
    start = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    took = time.perf_counter() - start
    assert json.loads(answer.stdout)["verdict"].startswith("allowed")
    return took


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        segments, snapshots = Path(folder, "segments"), Path(folder, "snapshots")
        segments.mkdir()
        snapshots.mkdir()
        list(write_segments(segments, _commits(snapshots)))
        bare, with_snapshots = (
            ["--segments", str(segments)],
            ["--segments", str(segments), "--segments", str(snapshots)],
        )
        middle = ["--at", str(ENDPOINTS + CHURN // 2)]
        results: list[Result] = [
            single(name, "s", [_why(*words) for _ in range(_ROUNDS)])
            for name, words in (
                ("why_200k_events_s", bare),
                ("why_200k_events_snapshots_s", with_snapshots),
                ("why_at_middle_snapshots_s", [*with_snapshots, *middle]),
                ("why_bisect_200k_events_s", [*bare, "--bisect"]),
                ("why_bisect_200k_events_snapshots_s", [*with_snapshots, "--bisect"]),
            )
        ]
    publish("why", results)
