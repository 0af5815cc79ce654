"""`PolicyParts` against the definition, and that only policies which refer to a service are compiled for it."""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kilim.model import policy_parts, service_index
from kilim.model.compile import compile_policy, part_key
from kilim.model.fold import fold_event
from kilim.model.nouns import EndpointSlice, Policy, policy_to_pb
from kilim.model.policy_parts import TABLES_OF_POLICIES, PolicyParts
from kilim.model.resource import parse_manifest
from kilim.model.rules import PolicyRules
from kilim.model.service import SliceSpec, slice_of
from kilim.model.service_index import Services
from kilim.model.state import Change, State
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cluster import Cluster
from tests.pure.model.histories import histories

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def follow(parts: PolicyParts, state: State, changes: list[Change], held: dict[str, PolicyRules]) -> None:
    for change in changes:
        if change.table not in TABLES_OF_POLICIES:
            continue
        for each in parts.follow(state, change):
            for key, rules in each.rules():
                assert held.get(key) != rules
                if rules is None:
                    del held[key]
                else:
                    held[key] = rules


def wanted(state: State) -> dict[str, PolicyRules]:
    services = Services(state)
    return {
        part_key(key, number): part
        for key, policy in state.policies.items()
        for number, part in enumerate(compile_policy(policy, services))
    }


@many
@given(histories, st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_equal_to_the_definition_however_changes_are_split(history: list[pb.Event], sizes: list[int]) -> None:
    state, parts, held = State(), PolicyParts(), dict[str, PolicyRules]()
    rest, turn = list(history), 0
    while rest:
        size = sizes[turn % len(sizes)]
        follow(parts, state, [change for event in rest[:size] for change in fold_event(state, event)], held)
        assert held == wanted(state)
        rest, turn = rest[size:], turn + 1


@many
@given(histories)
def test_undone_it_is_as_before(history: list[pb.Event]) -> None:
    state, parts, held = State(), PolicyParts(), dict[str, PolicyRules]()
    changes = [change for event in history for change in fold_event(state, event)]
    follow(parts, state, changes, held)
    middle = len(changes) // 2
    assume(any(change.table in TABLES_OF_POLICIES for change in changes[middle:]))
    for change in reversed(changes[middle:]):
        state.undo((change,))
        follow(parts, state, [Change(change.table, change.key, change.new, change.old)], held)
        assert held == wanted(state)


def cilium(name: str, **rule: Any) -> dict[str, Any]:
    spec = {"endpointSelector": {}, "egress": [rule]}
    metadata = {"name": name, "namespace": "x"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}


def test_a_change_of_a_service_compiles_the_policies_that_refer_to_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, parts, compiled = Cluster(), PolicyParts(), list[str]()

    def compile_and_note(policy: Policy, services: Services) -> tuple[PolicyRules, ...]:
        compiled.append(policy.name)
        return compile_policy(policy, services)

    monkeypatch.setattr(policy_parts, "compile_policy", compile_and_note)

    def changed() -> tuple[list[str], list[str]]:
        """Names of the policies that were compiled, and of those that say another thing now."""
        compiled.clear()
        found = [each.key for change in cluster.changes for each in parts.follow(cluster.state, change)]
        cluster.changes.clear()
        return compiled, [key.rpartition("/")[2] for key in found]

    for name, rule in (
        ("plain", {"toEntities": ["world"]}),
        ("by-name", {"toServices": [{"k8sService": {"serviceName": "s", "namespace": "x"}}]}),
        ("anywhere", {"toServices": [{"k8sService": {"serviceName": "s"}}]}),
        ("labelled", {"toServices": [{"k8sServiceSelector": {"selector": {"matchLabels": {"tier": "db"}}}}]}),
        ("api", {"toEntities": ["kube-apiserver"]}),
    ):
        cluster.apply(cilium(name, **rule))
    changed()
    cluster.service("x/other", {"app": "web"})
    assert changed() == ([], [])
    cluster.service("x/s", {"app": "web"})
    assert changed() == (["anywhere", "by-name"],) * 2
    cluster.service("x/s", {"app": "web"}, type="NodePort")
    assert changed() == (["anywhere", "by-name"], [])
    cluster.service("y/s", {"app": "web"}, {"tier": "db"})
    assert changed() == (["anywhere", "labelled"],) * 2
    cluster.service("y/s", {"app": "web"})
    assert changed() == (["anywhere", "labelled"], ["labelled"])
    cluster.slice("default/k-1", "kubernetes", "192.0.2.1")
    assert changed() == (["api"], ["api"])
    cluster.slice("y/s-1", "s", "192.0.2.1")
    assert changed() == ([], []), "its service has a selector"
    cluster.service("y/s")
    assert changed() == (["anywhere"], ["anywhere"])
    cluster.slice("y/s-1", "s", "192.0.2.2")
    assert changed() == (["anywhere"], ["anywhere"])
    cluster.happen(policy_removed=pb.PolicyRemoved(kind="CiliumNetworkPolicy", namespace="x", name="anywhere"))
    assert changed() == ([], ["anywhere"])
    cluster.slice("y/s-1", "s", "192.0.2.3")
    assert changed() == ([], [])


def test_where_no_policy_refers_to_services_they_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, parts = Cluster(), PolicyParts()
    monkeypatch.setattr(Services, "_read", lambda *_: pytest.fail("read"))
    cluster.apply(cilium("plain", toEntities=["world"]))
    cluster.service("x/s", {"app": "web"})
    for change in cluster.changes:
        parts.follow(cluster.state, change)


def test_of_services_only_the_namespaces_asked_for_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, parts, read = Cluster(), PolicyParts(), list[str]()

    def read_and_note(part: EndpointSlice) -> SliceSpec:
        read.append(f"{part.namespace}/{part.name}")
        return slice_of(part)

    monkeypatch.setattr(service_index, "slice_of", read_and_note)
    for namespace in ("default", "x", "y"):
        cluster.slice(f"{namespace}/kubernetes-1", "kubernetes", "192.0.2.1")
    read.clear()
    for rule, expected in (
        ({"toEntities": ["cluster"]}, ["default/kubernetes-1"]),
        ({"toServices": [{"k8sService": {"serviceName": "kubernetes", "namespace": "x"}}]}, ["x/kubernetes-1"]),
        ({"toServices": [{"k8sService": {"serviceName": "kubernetes"}}]}, ["y/kubernetes-1"]),
    ):
        before = len(cluster.changes)
        manifest = cilium("p", **rule)
        noun = parse_manifest(manifest).noun
        assert isinstance(noun, Policy)
        cluster.happen(policy_replaced=pb.PolicyReplaced(policy=policy_to_pb(noun)))
        for change in cluster.changes[before:]:
            parts.follow(cluster.state, change)
        assert read == expected
        read.clear()
