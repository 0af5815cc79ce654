"""`specs` of one object mean what as many objects with a `spec` each mean, to the last row."""

import json
from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.address import parse_cidr, parse_ip
from kilim.model.comparison import Comparison
from kilim.model.desired import desired_tables
from kilim.model.identity import ANY_PEER, FIRST_CIDR, Identity, cidr_labels
from kilim.model.nouns import (
    Endpoint,
    NamedPort,
    Node,
    Policy,
    endpoint_to_pb,
    identity_to_pb,
    node_to_pb,
    policy_to_pb,
)
from kilim.model.state import State, policy_key
from kilim.model.tables import EGRESS, ENFORCE_EGRESS, ENFORCE_INGRESS, INGRESS
from tests.pure.model.cilium_histories import cilium_specs
from tests.pure.model.histories import LABELS

CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
PREFIXES = ("0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.1/32", "172.16.0.1/32")
PORTS = ((NamedPort("http", 80, 6),), (NamedPort("http", 8080, 6), NamedPort("dns", 53, 17)), ())
Body = Mapping[str, object]


def state_of(kind: str, *bodies: Body) -> State:
    """One object of each body, over a pod of every identity on two nodes."""
    state = State()

    def put(table: str, key: str | int, message: object) -> None:
        state.put(table, key, message.SerializeToString(deterministic=True))  # type: ignore[attr-defined]

    for number in (1, 2):
        put("node", f"n{number}", node_to_pb(Node(f"n{number}", parse_ip(f"172.16.0.{number}"))))
    for at, prefix in enumerate(PREFIXES, FIRST_CIDR):
        put("identity", at, identity_to_pb(Identity(at, cidr_labels(parse_cidr(prefix)))))
    for at, labels in enumerate(LABELS):
        put("identity", 256 + at, identity_to_pb(Identity(256 + at, labels)))
        namespace, node = "x" if at < 3 else "y", 1 + at % 2
        pod = Endpoint(
            namespace, f"p{at}", f"n{node}", 1 + at, parse_ip(f"10.0.{node}.{1 + at}"), 256 + at, PORTS[at % len(PORTS)]
        )
        put("endpoint", f"{namespace}/p{at}", endpoint_to_pb(pod))
    namespace = "" if kind == CLUSTERWIDE else "x"
    for at, body in enumerate(bodies):
        policy = Policy(kind, namespace, f"p{at}", json.dumps(body))
        put("policy", policy_key(kind, namespace, policy.name), policy_to_pb(policy))
    return state


def assert_alike(kind: str, specs: Sequence[Body]) -> State:
    apart = state_of(kind, *({"spec": spec} for spec in specs))
    for body in ({"specs": list(specs)}, {"spec": specs[0], "specs": list(specs[1:])}, {"specs": list(specs[::-1])}):
        together = state_of(kind, body)
        assert not Comparison(apart, together).pairs()
        for node in ("n1", "n2"):
            assert desired_tables(together, node) == desired_tables(apart, node)
    return apart


kinds = st.sampled_from(("CiliumNetworkPolicy", CLUSTERWIDE))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kinds, st.lists(cilium_specs, min_size=2, max_size=3))
def test_specs_are_as_many_policies(kind: str, specs: list[Body]) -> None:
    assert_alike(kind, specs)


def spec_with(app: str, default_deny: Body) -> Body:
    return {
        "endpointSelector": {"matchLabels": {"app": app}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"tier": "back"}}]}],
        "egressDeny": [{"toEntities": ["world"]}],
        **({"enableDefaultDeny": default_deny} if default_deny else {}),
    }


DENIES: tuple[Body, ...] = tuple(
    {name: value for name, value in (("ingress", ingress), ("egress", egress)) if value is not None}
    for ingress, egress in product((None, True, False), repeat=2)
)


@pytest.mark.parametrize("same_subjects", [True, False])
@pytest.mark.parametrize(("one", "other"), list(product(DENIES, repeat=2)), ids=json.dumps)
def test_every_combination_of_default_deny(one: Body, other: Body, same_subjects: bool) -> None:
    """A direction is isolated as soon as one of the specs that select a pod isolates it."""
    specs = [spec_with("web", one), spec_with("web" if same_subjects else "db", other)]
    state = assert_alike("CiliumNetworkPolicy", specs)
    counting = {256: [one, *([other] if same_subjects else [])], 257: [] if same_subjects else [other]}
    for number, denies in counting.items():
        node = desired_tables(state, state.endpoints[f"x/p{number - 256}"].node)
        rows = node.policy.get(number, {})
        for direction, flag, name in ((INGRESS, ENFORCE_INGRESS, "ingress"), (EGRESS, ENFORCE_EGRESS, "egress")):
            isolated = any(deny.get(name, True) for deny in denies)
            passes_on = any((key.direction, key.peer) == (direction, ANY_PEER) for key in rows)
            assert bool(node.subjects[number] & flag) == bool(denies)
            assert passes_on == (bool(denies) and not isolated)


def test_a_spec_less_is_another_thing() -> None:
    one, other = spec_with("web", {}), spec_with("db", {})
    whole, part = (state_of("CiliumNetworkPolicy", {"specs": specs}) for specs in ([one, other], [one]))
    assert Comparison(whole, part).pairs()
