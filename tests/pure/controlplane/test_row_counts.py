"""Counting a subject's rows without making them: always what resolution makes, and no more work than what is new."""

import random

import pytest
from hypothesis import given, settings

from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import ApplyObjects, Document
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.row_counts import Count, RowCounts
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.desired import desired_tables
from kilim.model.facts import StateFacts
from kilim.model.identity import Identity
from kilim.model.labels import NAMESPACE_NAME_LABEL, security_labels, sorted_pairs
from kilim.model.nouns import (
    Endpoint,
    NamedPort,
    Namespace,
    Node,
    Setting,
    endpoint_to_pb,
    identity_to_pb,
    namespace_to_pb,
    node_to_pb,
    setting_to_pb,
)
from kilim.model.policy_index import PolicyIndex
from kilim.model.resolve import HOST_ROWS, resolve_rows, wanted_rows
from kilim.model.resource import parse_manifest
from kilim.model.settings import DEFAULT, ENABLE_POLICY, NEVER
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.bench.policies import app_labels, namespace_labels, namespace_name, policies
from tests.pure.model.histories import histories

NODES = 10
NAMESPACES, APPS = 10, 20


def counted(view: View, number: int) -> Count:
    return view.bounds.counts.of_subject(number)


def facts_that_count(state: State) -> StateFacts:
    """Where nothing is enforced the rows count that would be by default."""
    facts = StateFacts(state)
    if facts.enforcement == NEVER:
        facts.enforcement = DEFAULT
    return facts


def assert_exact(view: View) -> None:
    facts = facts_that_count(view.state)
    for number in view.state.endpoints_of_identity:
        count = counted(view, number)
        assert count.rows == len(resolve_rows(facts, number)[1])
        assert count.wanted >= len(wanted_rows(facts, number)[1].keys() | HOST_ROWS.keys()) or count.rows == 0


@settings(max_examples=100, deadline=None)
@given(histories)
def test_as_resolved(history: list[pb.Event]) -> None:
    view = View(State(), Defaults())
    for seq, event in enumerate(history, 1):
        view.undo(view.try_event(event))
        assert_exact(view)
        view.fold(seq, event.SerializeToString())
        assert_exact(view)


class World:
    """Every node has pods of all namespaces; every app is an identity."""

    def __init__(self, limit: int = Limits().policy) -> None:
        self.view = View(State(), Defaults(limits=Limits(policy=limit)))
        self.seq = 0
        for number in range(NODES):
            self.happen(pb.Event(node_joined=pb.NodeJoined(node=node_to_pb(Node(f"n{number}", 0x0B000000 + number)))))
        for number in range(NAMESPACES):
            namespace = Namespace(namespace_name(number), sorted_pairs(namespace_labels(number)))
            self.happen(pb.Event(namespace_labelled=pb.NamespaceLabelled(namespace=namespace_to_pb(namespace))))
            for app in range(APPS):
                self.add_pod(number, app)

    def happen(self, *events: pb.Event) -> None:
        for event in events:
            self.seq += 1
            self.view.fold(self.seq, event.SerializeToString(deterministic=True))

    def add_pod(self, namespace: int, app: int) -> None:
        name, number = namespace_name(namespace), 256 + namespace * 1000 + app
        of_namespace = sorted_pairs({**namespace_labels(namespace), NAMESPACE_NAME_LABEL: name})
        labels = security_labels(sorted_pairs(app_labels(app)), name, of_namespace, "default", "default")
        identity = identity_to_pb(Identity(number, labels))
        endpoint = Endpoint(
            namespace=name,
            name=f"app{app}",
            node=f"n{(app + namespace) % NODES}",
            endpoint_id=1 + namespace * 1000 + app,
            ip=0x0A800000 + number,
            identity=number,
            container_id=f"c{number}",
            labels=sorted_pairs(app_labels(app)),
            service_account="default",
            named_ports=(NamedPort("http", 8080 + app % 2, 6),),
        )
        self.happen(
            pb.Event(identity_allocated=pb.IdentityAllocated(identity=identity)),
            pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(endpoint))),
        )

    def apply(self, manifest: dict[str, object]) -> bool:
        """Whether it was not refused."""
        outcome = decide_batch(self.view, [ApplyObjects((Document(parse_manifest(manifest).noun),))])[0]
        if isinstance(outcome, Decided):
            self.happen(*outcome.events)
        return isinstance(outcome, Decided)


@pytest.mark.parametrize("mode", ["default", "always", "never"])
def test_policies_of_every_kind(mode: str) -> None:
    world = World()
    world.happen(pb.Event(setting_changed=pb.SettingChanged(setting=setting_to_pb(Setting(ENABLE_POLICY.name, mode)))))
    manifests = policies(200, NAMESPACES)
    random.Random(3).shuffle(manifests)
    for manifest in manifests:
        assert world.apply(manifest)
    assert_exact(world.view)
    world.add_pod(3, APPS)
    assert_exact(world.view)


def admin(number: int) -> dict[str, object]:
    """Denies half of the cluster to all pods of one namespace, some on every node."""
    peers = [{"namespaces": {"matchLabels": {"stage": "prod"}}}]
    subject = {"namespaces": {"matchLabels": {"team": "team0"}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": f"admin{number}"},
        "spec": {
            "tier": "Admin",
            "priority": number,
            "subject": subject,
            "ingress": [{"action": "Deny", "from": peers}],
        },
    }


def test_nodes_share_what_is_counted() -> None:
    """Many policies deny the same to the same: many rows by the bound of every node, few in truth."""
    world = World(limit=300)
    bounds = world.view.bounds
    for number in range(10):
        before = bounds.counts.parts_counted
        assert world.apply(admin(number))
        assert bounds.counts.parts_counted - before <= 1  # one tier of one direction, for twenty subjects on ten nodes
    assert min(bounds.rows_on(f"n{number}") for number in range(NODES)) > 1000
    assert bounds.counts.parts_counted >= 5
    assert max(sum(map(len, desired_tables(world.view.state, f"n{n}").policy.values())) for n in range(NODES)) <= 300


def test_what_is_counted_stays_until_it_changes() -> None:
    world = World(limit=300)
    for number in range(10):
        assert world.apply(admin(number))

    def counting() -> int:
        before = world.view.bounds.counts.parts_counted
        for number in world.view.state.endpoints_of_identity:
            counted(world.view, number)
        return world.view.bounds.counts.parts_counted - before

    assert (counting(), counting()) == (1, 0)
    world.add_pod(2, APPS)  # of no subject's namespace, and no peer
    assert counting() == 0
    world.add_pod(1, APPS)  # a peer more
    assert counting() == 1


def test_too_many_are_refused_exactly() -> None:
    world = World(limit=300)
    assert all(world.apply(admin(number)) for number in range(3))
    rows = {n: sum(map(len, desired_tables(world.view.state, n).policy.values())) for n in (f"n{i}" for i in range(10))}
    limit = max(rows.values())
    for allowed in (limit, limit - 1):
        other = World(limit=allowed)
        assert all(other.apply(admin(number)) for number in range(3)) == (allowed == limit)


def test_index_without_policies() -> None:
    index = PolicyIndex()
    index.track(256, None)
    assert RowCounts(index).of_subject(256) == Count(len(HOST_ROWS), 0)
