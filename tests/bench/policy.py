"""1,000 policies, 10,000 identities, 100 subjects on the node: what policy costs an agent and a replica.

In this process and its kernel, no etcd: CPU of an agent from a commit to its rows in the maps, for an identity that
comes or goes and a policy that comes; CPU to make all rows; memory of the policy of a node; CPU of a replica for one
policy. A policy comes with the identities of its prefixes, where it names new ones.
"""

import gc
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kilim.agent.bpf.datapath import Settings, load_objects, remove_all
from kilim.agent.bpf.tables import KernelTables
from kilim.agent.memory import settle_memory
from kilim.agent.replica import Replica
from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import ApplyObjects, Document
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.view import Defaults, View
from kilim.kvstore.commit import Commit, decode_commit, encode_commit, split_records
from kilim.model.fold import fold_event
from kilim.model.identity import Identity
from kilim.model.labels import NAMESPACE_NAME_LABEL, security_labels, sorted_pairs
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import (
    Endpoint,
    NamedPort,
    Namespace,
    Node,
    endpoint_to_pb,
    identity_to_pb,
    namespace_to_pb,
    node_to_pb,
)
from kilim.model.resource import parse_manifest
from kilim.model.state import Change, State
from kilim.model.tables import TablesDelta
from kilim.v1 import events_pb2 as pb
from tests.bench.measure import Result, percentile, publish, single
from tests.bench.netload import BenchError
from tests.bench.policies import app_labels, namespace_labels, namespace_name, policies, policy

POLICIES, IDENTITIES, SUBJECTS = 1_000, 10_000, 100
NAMESPACES = 100
APPS = IDENTITIES // NAMESPACES
CHANGES = 200
_NODES = IDENTITIES // SUBJECTS
_FIRST = 256
_ROUNDS = 3
_NODE = "node0"


def labels_of(namespace: int, app: int) -> tuple[str, ...]:
    name = namespace_name(namespace)
    of_namespace = sorted_pairs({**namespace_labels(namespace), NAMESPACE_NAME_LABEL: name})
    return security_labels(sorted_pairs(app_labels(app)), name, of_namespace, "default", "default")


def _endpoint(number: int) -> Endpoint:
    """Every node has as many, of all namespaces."""
    namespace, app = number % NAMESPACES, number // NAMESPACES
    return Endpoint(
        namespace=namespace_name(namespace),
        name=f"app{app}",
        node=f"node{(app + namespace) % _NODES}",
        endpoint_id=1 + namespace,
        ip=0x0A800000 + number,
        identity=_FIRST + number,
        container_id=f"c{number}",
        labels=sorted_pairs(app_labels(app)),
        service_account="default",
        named_ports=(NamedPort("http", 8080 + app % 2, 6),),
    )


def _cluster() -> Iterator[pb.Event]:
    for number in range(_NODES):
        yield pb.Event(node_joined=pb.NodeJoined(node=node_to_pb(Node(f"node{number}", 0x0B000000 + number))))
    for number in range(NAMESPACES):
        namespace = Namespace(namespace_name(number), sorted_pairs(namespace_labels(number)))
        yield pb.Event(namespace_labelled=pb.NamespaceLabelled(namespace=namespace_to_pb(namespace)))
    for number in range(IDENTITIES):
        labels = labels_of(number % NAMESPACES, number // NAMESPACES)
        yield _allocated(Identity(_FIRST + number, labels))
        yield pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(_endpoint(number))))


def _allocated(identity: Identity) -> pb.Event:
    return pb.Event(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(identity)))


class _Log:
    """A replica's view and what it decides, event by event."""

    def __init__(self) -> None:
        self.view = View(State(), Defaults())
        self.seq = 0

    def happen(self, events: Iterable[pb.Event]) -> list[Change]:
        changes: list[Change] = []
        for event in events:
            self.seq += 1
            changes += self.view.fold(self.seq, event.SerializeToString(deterministic=True))
        return changes

    def decide(self, manifest: dict[str, Any]) -> tuple[pb.Event, ...]:
        document = Document(parse_manifest(manifest).noun)
        outcome = decide_batch(self.view, [ApplyObjects((document,))])[0]
        if not isinstance(outcome, Decided):
            raise BenchError(f"{document.object}: {outcome}")
        return outcome.events


def _cpu_ms(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1e3


def _cold(state: State) -> list[float]:
    return [_cpu_ms(lambda: NodeTables(_NODE).rebuild(state)) for _ in range(_ROUNDS)]


def _memory_mib(state: State) -> float:
    gc.collect()
    tracemalloc.start()
    tables = NodeTables(_NODE)
    tables.rebuild(state)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / 2**20


class _Agent:
    """A replica of the log and the driver of a kernel's tables, joined as the agent joins them; no pod is connected."""

    def __init__(self, kernel: KernelTables, records: list[bytes]) -> None:
        self.replica = Replica(_NODE)
        self._kernel = kernel
        for each in split_records(records):
            self.replica.replay_commit(self._commit(each))
        self._write([self.replica.finish_replay()])
        settle_memory()  # as the agent does when it has caught up

    def follow(self, events: Iterable[pb.Event]) -> float:
        """Milliseconds of CPU, in the kernel too: one commit, to its rows in the maps and none that is retired."""
        records = [event.SerializeToString(deterministic=True) for event in events]
        encoded = self._commit(records).encoded if records else b""
        if not encoded:
            return 0.0
        return _cpu_ms(lambda: self._write(self.replica.apply_commits([decode_commit(encoded)])))

    def check(self) -> None:
        """What was done bit by bit is what is made at once, and in the maps."""
        fresh = NodeTables(_NODE)
        fresh.rebuild(self.replica.state)
        held = self._kernel.read_rows()
        if self.replica.table_digest != fresh.digest or held.policy != fresh.tables.policy:
            raise BenchError("the rows made bit by bit are not those made at once")

    @property
    def rows(self) -> int:
        return sum(map(len, self.replica.tables.policy.values()))

    def _commit(self, records: list[bytes]) -> Commit:
        seq, chain = self.replica.position
        return encode_commit(seq + 1, chain, records)

    def _write(self, deltas: list[TablesDelta]) -> None:
        for delta in deltas:
            self._kernel.write(delta, self.replica.seq, {})
        self._kernel.sweep()


@contextmanager
def _kernel() -> Iterator[KernelTables]:
    """Maps of our own, empty."""
    if os.geteuid():
        raise BenchError("root is missing: the rows are written to maps of the kernel")
    root = Path(f"/sys/fs/bpf/kilim-bench-{os.getpid()}")
    datapath = load_objects(Settings(node_ip=0x0B000000), root)
    try:
        yield datapath.tables
    finally:
        datapath.close()
        remove_all(root)


def _new_identities(agent: _Agent) -> tuple[list[float], list[float]]:
    """Of apps that are new, in a namespace each time another one; then they go again."""
    come, go = [], []
    for number in range(CHANGES):
        labels = labels_of(number * 7 % NAMESPACES, APPS + number)
        come.append(agent.follow([_allocated(Identity(_FIRST + IDENTITIES + number, labels))]))
    for number in range(CHANGES):
        go.append(agent.follow([pb.Event(identity_released=pb.IdentityReleased(id=_FIRST + IDENTITIES + number))]))
    return come, go


def _new_policies(log: _Log, agent: _Agent) -> tuple[list[float], list[float], list[float]]:
    decided, folded, followed = [], [], []
    chosen = random.Random(4).sample(range(10 * POLICIES), CHANGES)
    for number in chosen:
        manifest = policy(number, number * 13 % NAMESPACES)
        manifest["metadata"]["name"] = f"new{number}"
        events: list[pb.Event] = []
        decided.append(_cpu_ms(lambda manifest=manifest, events=events: events.extend(log.decide(manifest))))  # type: ignore[misc]
        folded.append(_cpu_ms(lambda events=events: log.happen(events)))  # type: ignore[misc]
        followed.append(agent.follow(events))
    return decided, folded, followed


def _both(metric: str, values: list[float]) -> list[Result]:
    p99 = single(f"{metric}_p99_ms", "ms CPU", [percentile(values, 0.99)])
    return [single(f"{metric}_p50_ms", "ms CPU", values), p99]


def measure() -> list[Result]:
    log, copy = _Log(), State()
    events = list(_cluster())
    log.happen(events)
    for event in events:
        fold_event(copy, event)
    without = _cold(copy), _memory_mib(copy)
    for manifest in policies(POLICIES, NAMESPACES):
        made = log.decide(manifest)
        log.happen(made)
        events += made
        for event in made:
            fold_event(copy, event)
    within = _cold(copy), _memory_mib(copy)
    with _kernel() as kernel:
        agent = _Agent(kernel, [event.SerializeToString(deterministic=True) for event in events])
        rows = agent.rows
        come, go = _new_identities(agent)
        decided, folded, followed = _new_policies(log, agent)
        agent.check()
    return [
        single("policy_rows", "rows", [rows]),
        single("rebuild_without_policies_ms", "ms CPU", without[0]),
        single("rebuild_ms", "ms CPU", within[0]),
        single("policy_memory_mib", "MiB", [within[1] - without[1]]),
        *_both("identity_comes", come),
        *_both("identity_goes", go),
        *_both("policy_comes", followed),
        *_both("replica_decides_policy", decided),
        *_both("replica_folds_policy", folded),
    ]


def run() -> None:
    publish("policy", measure())
