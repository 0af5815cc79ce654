"""What must hold over any history: look-ups in step with the state, addresses right, batches as one by one."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import kilim.controlplane.decide
from kilim.controlplane.decide.command import ChangeSetting, Command, ReleaseIdentities, RemoveEndpoint
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.endpoint import namespace_labels
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.address import Cidr, is_ipv6, parse_cidr
from kilim.model.cidr_group import CIDR_GROUP
from kilim.model.compile import cidrs_of
from kilim.model.identity import FIRST_CIDR, FIRST_NODE, cidr_labels, membership_label
from kilim.model.labels import IPV6_ONLY, named_ports_label, security_labels
from kilim.model.nouns import NamedPort, Namespace, Pod
from kilim.model.service_index import Services
from kilim.model.snapshot import decode_records, encode_parts, freeze
from kilim.model.state import State
from tests.pure.controlplane.worlds import World, apply, cidr_group, delete, endpoint, look_ups, node, policy

NAMES = ("a", "b", "c")
CIDRS = ("10.0.0.0/8", "172.16.0.0/12", "10.244.0.0/24", "0.0.0.0/0", "fd00:10:244::/63", "fd00:10:244::/126", "::/0")
EXCEPTS = {"10.244.0.0/24": "10.244.0.2/31", "0.0.0.0/0": "10.244.0.2/31", "fd00:10:244::/63": "fd00:10:244::2/127"}
FAMILIES = st.sampled_from(((True, False), (False, True), (True, True)))
PORTS = st.sampled_from(((), (NamedPort("http", 80, 6),), (NamedPort("http", 8080, 6),)))
name, label, number = st.sampled_from(NAMES), st.sampled_from(("x", "y")), st.integers(1, 4)

registrations = st.builds(
    lambda n, i, k, on, value, of: replace(
        endpoint(n, f"10.244.{on - 1}.{i}" * of[0], k, f"node{on}", app=value),
        ipv6=f"fd00:10:244:{on - 1}::{i}" * of[1],
    ),
    name, number, number, st.integers(1, 2), label, FAMILIES,
)  # fmt: skip
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        lambda n, i, of: node(f"node{n}", f"192.0.2.{i}" * of[0], ipv6=f"2001:db8::{i}" * of[1]),
        number, number, FAMILIES,
    ),
    *[registrations] * 3,  # without endpoints there is little to see
    st.builds(lambda n, on: RemoveEndpoint(f"node{on}", "shop", n), name, st.integers(1, 2)),
    st.builds(lambda value: apply(Namespace("shop", (("team", value),))), label),
    st.builds(lambda n, value, ports: apply(Pod("shop", n, (("app", value),), "", ports)), name, label, PORTS),
    st.builds(lambda n, cidrs: apply(policy(n, *cidrs)), name, st.lists(st.sampled_from(CIDRS), max_size=2)),
    st.builds(lambda n, cidr: apply(policy(n, cidr, excepts=(EXCEPTS[cidr],))), name, st.sampled_from(sorted(EXCEPTS))),
    st.builds(
        lambda n, cidrs, value: apply(cidr_group(n, *cidrs, site=value)),
        name, st.lists(st.sampled_from(CIDRS), max_size=3), label,
    ),
    st.builds(lambda n: delete("CiliumCIDRGroup", n), name),
    st.builds(lambda mode: ChangeSetting("policy-cidr-match-mode", mode), st.sampled_from(("none", "pods", ""))),
    st.builds(lambda kind, n: delete(kind, n, "shop"), st.sampled_from(("Pod", "NetworkPolicy")), name),
    st.builds(lambda n: delete("Node", f"node{n}"), number),
    st.just(delete("Namespace", "shop")),
    st.just(ReleaseIdentities(tuple(range(256, 270)))),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(commands, min_size=1, max_size=4), max_size=15))
def test_any_history(batches: list[list[Command]]) -> None:
    together, singly = World(), World()
    for world in (together, singly):
        world.do(node("node1", "192.0.2.1", ipv6="2001:db8::1"))
        world.do(node("node2", "192.0.2.2", ipv6="2001:db8::2"))
    for batch in batches:
        for outcome in together.decide(*batch):
            if isinstance(outcome, Decided):
                together.happen(outcome)
        for command in batch:
            for outcome in singly.decide(command):
                if isinstance(outcome, Decided):
                    singly.happen(outcome)
        assert together.state.digest == singly.state.digest
        check(together)


def check(world: World) -> None:
    state = world.state
    assert look_ups(world.view) == look_ups(View(state, Defaults()))
    endpoints = list(state.endpoints.values())
    ips = [ip for each in endpoints for ip in each.ips]
    assert len({*ips}) == len(ips) and all(each.ips for each in endpoints)
    assert len({(each.node, each.endpoint_id) for each in endpoints}) == len(endpoints)
    cidrs = {name: tuple(map(parse_cidr, each.pod_cidrs)) for name, each in state.nodes.items()}
    for one, each in state.nodes.items():
        assert {is_ipv6(cidr.ip) for cidr in cidrs[one]} == {is_ipv6(ip) for ip in each.ips}
        others = [cidr for other, theirs in cidrs.items() if other != one for cidr in theirs]
        assert not any(cidr.contains(other) for cidr in cidrs[one] for other in others)
    policies = [each for each in state.policies.values() if each.kind != CIDR_GROUP]
    prefixes = {
        cidr
        for each in policies
        if not each.cidrs_exclude_pods
        for cidr in cidrs_of(each, Services(state))
        if cidr != Cidr(0, 0)
    }
    offered: dict[int, tuple[NamedPort, ...]] = {}
    for each in endpoints:
        assert all(any(cidr.contains_ip(ip) for cidr in cidrs[each.node]) for ip in each.ips)
        pod = state.pods.get(f"{each.namespace}/{each.name}")
        assert pod is None or pod.labels == each.labels
        labels = namespace_labels(state, each.namespace)
        expected = security_labels(each.labels, each.namespace, labels, each.service_account, "default")
        expected += tuple(membership_label(cidr) for cidr in prefixes if any(map(cidr.contains_ip, each.ips)))
        expected += () if each.ip else (IPV6_ONLY,)
        found = state.identities[each.identity].labels
        assert set(found) - {named_ports_label(each.named_ports)} == set(expected)
        assert each.named_ports == offered.setdefault(each.identity, each.named_ports)
    named = {labels_of(state, cidr) for each in state.policies.values() for cidr in cidrs_of(each, Services(state))}
    assert {each.labels for each in state.identities.values() if FIRST_CIDR <= each.id < FIRST_NODE} == named
    assert len(state.identity_of_labels) == len(state.identities)
    parts = encode_parts(freeze(state), part_bytes=200)
    assert list(decode_records(record for part in parts for record in part)) == list(state.records())


def labels_of(state: State, cidr: Cidr) -> tuple[str, ...]:
    groups = [each for each in state.policies.values() if each.kind == CIDR_GROUP]
    inside = [each for each in groups if any(prefix.contains(cidr) for prefix in cidrs_of(each, Services(state)))]
    sites = [json.loads(each.manifest_json)["metadata"]["labels"]["site"] for each in inside]
    found = (f"cidrgroup:{each.name}=site={site}" for each, site in zip(inside, sites, strict=True))
    return tuple(sorted((*cidr_labels(cidr), *found)))


def test_decisions_are_pure() -> None:
    """They import the model, the messages, one another, and of the standard library what cannot touch the world."""
    allowed = ("kilim.model.", "kilim.v1", "kilim.controlplane.decide.", "google.protobuf.message")
    harmless = {"collections", "collections.abc", "contextlib", "dataclasses", "enum", "functools", "typing"}
    for path in Path(kilim.controlplane.decide.__path__[0]).glob("*.py"):
        for statement in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(statement, ast.Import), path
            if isinstance(statement, ast.ImportFrom):
                module = str(statement.module)
                assert module in harmless or module.startswith(allowed), (path, module)
