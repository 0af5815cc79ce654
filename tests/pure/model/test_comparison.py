"""Comparison of two states against brute force: all pairs, all ports that matter, by the tables of every node."""

import json
from itertools import pairwise, product

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.address import parse_cidr, parse_ip
from kilim.model.comparison import OTHER_NODES, OWN_NODE, Comparison
from kilim.model.compile import cidrs_of
from kilim.model.desired import desired_tables
from kilim.model.flip_groups import flip_groups
from kilim.model.identity import Identity
from kilim.model.l4_set import EVERYTHING, allowed_by, both, contains, without
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
from kilim.model.resolve import without_covered
from kilim.model.service_index import Services
from kilim.model.state import State
from kilim.model.tables import ALLOW, DENY, ENFORCE_INGRESS, INGRESS, PolicyKey, PolicyRows
from kilim.model.verdict import ALLOWED, judge_rows, verdict
from tests.pure.model.cluster import Cluster
from tests.pure.model.histories import LABELS, specs

HTTP, DNS = NamedPort("http", 80, 6), NamedPort("dns", 53, 17)
OTHER_HTTP = NamedPort("http", 8080, 6)
STRANGERS = ("10.0.2.77", "172.16.0.9", "198.51.100.1")
L4S = [(6, 79), (6, 80), (6, 90), (6, 91), (6, 8080), (17, 53), (17, 54), (132, 7), (1, 8)]

ends = st.tuples(st.sampled_from(range(len(LABELS))), st.sampled_from(((), (HTTP,), (OTHER_HTTP, DNS))))
clusters = st.tuples(
    st.dictionaries(st.sampled_from("abcdef"), ends, min_size=2, max_size=6),
    st.dictionaries(st.tuples(st.sampled_from("xy"), st.sampled_from("pqr")), specs, max_size=4),
)
Described = tuple[dict[str, tuple[int, tuple[NamedPort, ...]]], dict[tuple[str, str], object]]


def state_of(described: Described, turned: bool = False) -> State:
    """`turned`: identity numbers stand for other labels."""
    pods, policies = described
    state = State()
    for number in (1, 2):
        node = node_to_pb(Node(f"n{number}", parse_ip(f"172.16.0.{number}")))
        state.put("node", f"n{number}", node.SerializeToString(deterministic=True))
    for name, (labels, ports) in pods.items():
        number = 256 + labels
        identity = identity_to_pb(Identity(number, LABELS[labels - turned]))
        state.put("identity", number, identity.SerializeToString(deterministic=True))
        at = ord(name) - ord("a")
        namespace = "x" if labels < 3 else "y"
        ip = parse_ip(f"10.0.{1 + at % 2}.{1 + at}")
        endpoint = endpoint_to_pb(Endpoint(namespace, name, f"n{1 + at % 2}", 1 + at, ip, number, ports))
        state.put("endpoint", f"{namespace}/{name}", endpoint.SerializeToString(deterministic=True))
    for (namespace, name), spec in policies.items():
        noun = Policy("NetworkPolicy", namespace, name, json.dumps({"spec": spec}))
        for cidr in cidrs_of(noun, Services(state)):
            number = (1 << 24) + hash(cidr) % 1000
            identity = identity_to_pb(Identity(number, (f"cidr:{cidr}", "reserved:world")))
            state.put("identity", number, identity.SerializeToString(deterministic=True))
        policy = policy_to_pb(noun)
        state.put("policy", f"NetworkPolicy/{namespace}/{name}", policy.SerializeToString(deterministic=True))
    return state


def brute_force(before: State, after: State) -> set[tuple[str, str, int, int]]:
    """(source, destination, protocol, port) of every flow whose verdict differs; ends by name or address."""
    tables = [{n: desired_tables(state, n) for n in ("n1", "n2")} for state in (before, after)]
    pods = {key: before.endpoints[key] for key in before.endpoints if key in after.endpoints}
    places = {key: (pod.ip, pod.node) for key, pod in pods.items()}
    places |= {ip: (parse_ip(ip), "") for ip in (*STRANGERS, "172.16.0.1", "172.16.0.2")}
    found = set()
    for (source, here), (target, there) in product(places.items(), places.items()):
        if source in pods or target in pods:
            for protocol, port in L4S:
                was, now = (
                    verdict(each.get(here[1]), each.get(there[1]), here[0], there[0], protocol, port).allowed
                    for each in tables
                )
                if was != now:
                    found.add((source, target, protocol, port))
    return found


def end_names(comparison: Comparison, number: int, other: int, state: State) -> list[str]:
    """Who of the places of `brute_force` an end stands for, as seen from `other`."""
    end = comparison.ends[number]
    if end.is_ours:
        return list(end.names)
    if end.names == (OTHER_NODES,):
        return ["172.16.0.1", "172.16.0.2"]
    inner = [parse_cidr(each.names[0]) for each in comparison.ends if "/" in each.names[0] and not each.is_ours]
    mine = parse_cidr(end.names[0])
    return [
        ip
        for ip in STRANGERS
        if mine == max((each for each in inner if each.contains_ip(parse_ip(ip))), key=lambda each: each.prefix_len)
    ]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters, clusters, st.booleans(), st.booleans(), st.booleans())
def test_equal_to_brute_force(
    one: Described, other: Described, same_pods: bool, same_policies: bool, turned: bool
) -> None:
    others = one[0] if same_pods else other[0], one[1] if same_policies else other[1]
    before, after = state_of(one), state_of(others, turned)
    check(before, after)


def check(before: State, after: State) -> int:
    """How many flows change; equal to brute force."""
    wanted = brute_force(before, after)
    found = {
        (source, target, protocol, port)
        for comparison in (Comparison(before, after),)
        for pair in comparison.pairs()
        for protocol, port in L4S
        if contains(pair.before, protocol, port) != contains(pair.after, protocol, port)
        for source in end_names(comparison, pair.source, pair.destination, before)
        for target in end_names(comparison, pair.destination, pair.source, before)
        if source != target and not is_own_node(before, source, target)
    }
    assert found == wanted
    check_groups(before, after)
    return len(found)


def check_groups(before: State, after: State) -> None:
    """Groups say exactly what the pairs say, each flow once, and count single pods."""
    comparison = Comparison(before, after)
    changed = {
        (pair.source, pair.destination, protocol, port): contains(pair.after, protocol, port)
        for pair in comparison.pairs()
        for protocol, port in L4S
        if contains(pair.before, protocol, port) != contains(pair.after, protocol, port)
    }
    for one, other, protocol, port in list(changed):
        if one == other and len(comparison.ends[one].names) == 1:  # a pod alone is not its own peer
            del changed[one, other, protocol, port]
    grouped: dict[tuple[int, int, int, int], bool] = {}
    for group in flip_groups(comparison):
        pairs = 0
        for one, other in product(group.sources, group.destinations):
            names = product(comparison.ends[one].names, comparison.ends[other].names)
            pairs += sum(source != target for source, target in names)
            if one != other or len(comparison.ends[one].names) > 1:
                for protocol, port in L4S:
                    if contains(group.ranges, protocol, port):
                        assert (one, other, protocol, port) not in grouped
                        grouped[one, other, protocol, port] = group.allowed
        assert group.pairs == pairs > 0
        assert group.causes
    assert grouped == changed


def is_own_node(state: State, source: str, target: str) -> bool:
    nodes = {state.endpoints[key].node for key in (source, target) if key in state.endpoints}
    return bool({f"172.16.0.{node[1]}" for node in nodes} & {source, target})


def test_named_ports_that_move() -> None:
    policy: dict[tuple[str, str], object] = {
        ("x", "p"): {"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}
    }
    before = state_of(({"a": (0, (HTTP,)), "b": (1, ())}, policy))
    assert check(before, state_of(({"a": (0, (OTHER_HTTP,)), "b": (1, ())}, policy))) == 10


def test_labels_that_a_number_no_longer_stands_for() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "db"}}}
    policy: dict[tuple[str, str], object] = {
        ("x", "p"): {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [peer]}]}
    }
    pods: dict[str, tuple[int, tuple[NamedPort, ...]]] = {"a": (1, ()), "b": (2, ()), "c": (0, ())}
    assert check(state_of((pods, policy)), state_of((pods, policy), turned=True)) > 0


def test_a_prefix_that_longer_ones_cover_stands_for_nobody() -> None:
    state = State()
    for number, text in enumerate(("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8"), 1 << 24):
        identity = identity_to_pb(Identity(number, (f"cidr:{text}", "reserved:world")))
        state.put("identity", number, identity.SerializeToString(deterministic=True))
    names = [end.names[0] for end in Comparison(state, state).ends]
    assert names == ["0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1", OWN_NODE, OTHER_NODES]


_l4s = st.sampled_from(((0, 0, 0), (6, 0, 0), (6, 0, 13), (6, 4, 14), (6, 4, 16), (17, 8, 16), (17, 0, 0)))
_keys = st.builds(lambda peer, l4: PolicyKey(INGRESS, peer, *l4), st.sampled_from((0, 5)), _l4s)
_rows = st.dictionaries(_keys, st.sampled_from((ALLOW, DENY)), max_size=6)
SAMPLES = [(p, n) for p in (6, 17, 132) for n in (*range(10), 65535)] + [(1, 0)]


@given(_rows, _rows)
def test_sets_of_ports(one: PolicyRows, other: PolicyRows) -> None:
    rows = [without_covered(one), without_covered(other)]
    sets = [allowed_by(ENFORCE_INGRESS, each, INGRESS, 5) for each in rows]
    for protocol, port in SAMPLES:
        first, second = (judge_rows(ENFORCE_INGRESS, each, INGRESS, 5, protocol, port) == ALLOWED for each in rows)
        assert contains(sets[0], protocol, port) == first
        assert contains(both(*sets), protocol, port) == (first and second)
        assert contains(without(*sets), protocol, port) == (first and not second)
    assert both(sets[0], EVERYTHING) == sets[0]
    assert all(isinstance(each, tuple) for each in sets)


def test_nodes_that_are_told_apart_and_the_own_one() -> None:
    before, after = (state_of(({"a": (0, ()), "b": (1, ())}, {})) for _ in range(2))
    known = Identity(1 << 25, ("node:zone=a", "reserved:remote-node"))
    after.put("identity", known.id, identity_to_pb(known).SerializeToString(deterministic=True))
    told = node_to_pb(Node("n1", parse_ip("172.16.0.1"), labels=(("zone", "a"),), identity=known.id))
    after.put("node", "n1", told.SerializeToString(deterministic=True))
    spec = {"endpointSelector": {}, "egress": [{"toNodes": [{"matchLabels": {"zone": "a"}}]}]}
    policy = policy_to_pb(Policy("CiliumClusterwideNetworkPolicy", "", "p", json.dumps({"spec": spec})))
    after.put("policy", "CiliumClusterwideNetworkPolicy//p", policy.SerializeToString(deterministic=True))
    comparison = Comparison(before, after)
    names = [end.names for end in comparison.ends]
    closed = {names[pair.destination] for pair in comparison.pairs()}
    assert {(OWN_NODE,), (OTHER_NODES,)} <= closed
    assert ("node:n1",) in names and ("node:n1",) not in closed


def test_services_alone_change_what_policies_say() -> None:
    spec = {"endpointSelector": {}, "egress": [{"toServices": [{"k8sServiceSelector": {"selector": {}}}]}]}
    metadata = {"name": "p", "namespace": "x"}
    policy = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}
    steps = [
        ("y/s", {"app": "web"}, ()),
        ("y/s", {"app": "db"}, ()),
        ("y/s", None, ("198.51.100.1",)),
        ("y/s", None, ("172.16.0.9", "10.0.2.77")),
    ]
    states = []
    for number in range(len(steps)):
        cluster = Cluster()
        for node in (1, 2):
            cluster.node(f"n{node}", f"172.16.0.{node}")
        cluster.pod("x", "a", "n1", "10.0.1.1", {"app": "web"})
        cluster.pod("y", "b", "n2", "10.0.2.2", {"app": "web"})
        cluster.pod("y", "c", "n1", "10.0.1.3", {"app": "db"})
        cluster.apply(policy)
        for key, selector, addresses in steps[: number + 1]:
            cluster.service(key, selector)
            cluster.slice("y/s-1", "s", *addresses)
        states.append(cluster.state)
    for before, after in pairwise(states):
        assert check(before, after) > 0
        groups = flip_groups(Comparison(before, after))
        assert "CiliumNetworkPolicy x/p" in {cause.partition(" egress")[0] for each in groups for cause in each.causes}
