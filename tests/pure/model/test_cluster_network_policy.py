"""ClusterNetworkPolicy: what is refused and with which words, what it becomes, and the conformance cases as data."""

import copy
import json
import lzma
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kilim.controlplane.decide.command import RegisterNode
from kilim.model.address import parse_cidr, parse_ip
from kilim.model.cluster_network_policy import parse_cluster_network_policy_spec
from kilim.model.compile import parts_as_written
from kilim.model.identity import REMOTE_NODE, RESERVED
from kilim.model.invalid import Invalid
from kilim.model.nouns import Policy
from kilim.model.protocols import PROTOCOLS
from kilim.model.rules import CidrPeer, PolicyRules, PortName, PortRange, peer_matches
from kilim.model.tables import ADMIN, ALLOW, BASELINE, DENY, EGRESS, INGRESS, PASS, action_of, tier_flag
from kilim.model.verdict import verdict
from tests.pure.model.test_policy_cases import FILE, Case, cluster_of, node_of

Spec = dict[str, Any]
TCP, UDP, SCTP = (PROTOCOLS[name] for name in ("TCP", "UDP", "SCTP"))


def whole_spec() -> Spec:
    return {
        "tier": "Admin",
        "priority": 10,
        "subject": {"namespaces": {}},
        "ingress": [{"name": "a", "action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": "a"}}}]}],
        "egress": [
            {
                "action": "Accept",
                "to": [
                    {"pods": {"podSelector": {"matchLabels": {"app": "dns"}}}},
                    {"networks": ["10.0.0.0/8", "fd00::/8"]},
                ],
                "protocols": [
                    {"udp": {"destinationPort": {"number": 53}}},
                    {"tcp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}},
                ],
            },
            {"action": "Pass", "to": [{"nodes": {}}]},
        ],
    }


def rules_of(spec: Spec) -> PolicyRules:
    (rules,) = parts_as_written(Policy("ClusterNetworkPolicy", "", "p", json.dumps({"spec": spec})))
    return rules


def test_what_it_becomes() -> None:
    rules = rules_of(whole_spec())
    assert (rules.tier, rules.priority) == (ADMIN, 10)
    assert rules.flags == tier_flag(ADMIN, INGRESS) | tier_flag(ADMIN, EGRESS)
    assert [(each.direction, each.number, each.action) for each in rules.rules] == [
        (INGRESS, 0, DENY),
        (EGRESS, 0, ALLOW),
        (EGRESS, 1, PASS),
    ]
    accept, on = rules.rules[1:]
    networks = tuple(CidrPeer(parse_cidr(text), (), pods=True) for text in ("10.0.0.0/8", "fd00::/8"))
    assert accept.peers is not None and accept.peers[1:] == networks
    assert accept.ports == (PortRange(UDP, 53, 53), PortRange(TCP, 1, 65535))
    nodes = {number for number, each in RESERVED.items() for peer in on.peers or () if peer_matches(peer, each)}
    assert nodes == {REMOTE_NODE}
    values = [rules.row_value(each) for each in rules.rules]
    assert values[1] > values[2], "the first rule comes first"
    assert action_of(values[2]) == PASS and values[2] > 3


def test_the_lower_priority_comes_first_whatever_the_numbers_of_the_rules() -> None:
    first, second, last = ({**whole_spec(), "priority": each} for each in (0, 1, 1000))
    values = [[rules_of(spec).row_value(each) for each in rules_of(spec).rules[1:]] for spec in (last, second, first)]
    assert sorted(max(each) for each in values) == [max(each) for each in values]
    assert min(values[2]) > max(values[1]) > min(values[1]) > max(values[0]) > min(values[0]) > 3


def test_a_direction_without_rules_is_not_spoken_of() -> None:
    spec = {**whole_spec(), "tier": "Baseline", "egress": []}
    assert rules_of(spec).flags == tier_flag(BASELINE, INGRESS)


def test_a_named_port_is_one_of_any_protocol() -> None:
    spec = whole_spec()
    spec["ingress"][0]["protocols"] = [{"destinationNamedPort": "web"}]
    assert rules_of(spec).rules[0].ports == tuple(PortName(each, "web") for each in (TCP, UDP, SCTP))


def test_nodes_by_what_all_of_them_have() -> None:
    spec = whole_spec()
    spec["egress"][1]["to"] = [{"nodes": {"matchLabels": {"kubernetes.io/os": "linux"}}}]
    assert len(rules_of(spec).rules[2].peers or ()) == 1
    spec["egress"][1]["to"] = [{"nodes": {"matchLabels": {"kubernetes.io/os": "windows"}}}]
    assert rules_of(spec).rules[2].peers == ()


Change = Callable[[Spec], object]
_PORT = "spec.egress[0].protocols[0].udp.destinationPort"
BROKEN: list[tuple[Change, str]] = [
    (lambda s: s.pop("tier"), "spec.tier: Required value"),
    (
        lambda s: s.update(tier="Normal"),
        'spec.tier: Unsupported value: "Normal": supported values: "Admin", "Baseline"',
    ),
    (lambda s: s.pop("priority"), "spec.priority: Required value"),
    (lambda s: s.update(priority=1001), "spec.priority: Invalid value: 1001: must be between 0 and 1000, inclusive"),
    (lambda s: s.update(priority="1"), "spec.priority: must be an integer, not a string"),
    (lambda s: s.pop("subject"), "spec.subject: Required value"),
    (lambda s: s.update(subject={}), "spec.subject: must have exactly one of namespaces, pods"),
    (
        lambda s: s["subject"].update(pods={"podSelector": {}}),
        "spec.subject: must have exactly one of namespaces, pods",
    ),
    (lambda s: s.update(subject={"pods": {}}), "spec.subject.pods.podSelector: Required value"),
    (lambda s: s.update(subject={"nodes": {}}), 'spec.subject.nodes: unknown field "nodes"'),
    (lambda s: s.update(ingress=s["ingress"] * 26), "spec.ingress: Too many: must have at most 25 items"),
    (
        lambda s: s["ingress"][0].update(name="x" * 101),
        "spec.ingress[0].name: Too long: may not be more than 100 characters",
    ),
    (
        lambda s: s["ingress"][0].update(action="Allow"),
        'spec.ingress[0].action: Unsupported value: "Allow": supported values: "Accept", "Deny", "Pass"',
    ),
    (lambda s: s["ingress"][0].pop("from"), "spec.ingress[0].from: Required value"),
    (lambda s: s["ingress"][0].update({"from": []}), "spec.ingress[0].from: must have at least 1 item"),
    (
        lambda s: s["ingress"][0].update({"from": [{"networks": ["10.0.0.0/8"]}]}),
        'spec.ingress[0].from[0].networks: unknown field "networks"',
    ),
    (lambda s: s["ingress"][0].update(protocols=[]), "spec.ingress[0].protocols: must have at least 1 item"),
    (
        lambda s: s["ingress"][0].update(protocols=[{"tcp": {}}]),
        "spec.ingress[0].protocols[0].tcp.destinationPort: Required value",
    ),
    (
        lambda s: s["egress"][0]["to"].append({"networks": ["10.0.0.0/8", "10.0.0.0/8"]}),
        "spec.egress[0].to[2].networks[1]: Duplicate value: '10.0.0.0/8'",
    ),
    (
        lambda s: s["egress"][0]["to"].append({"networks": ["10.0.0.0/33"]}),
        'spec.egress[0].to[2].networks[0]: Invalid value: "10.0.0.0/33": must be a valid CIDR value, '
        "(e.g. 10.9.8.0/24 or 2001:db8::/64)",
    ),
    (
        lambda s: s["egress"][0]["protocols"].append({"destinationNamedPort": "web"}),
        "spec.egress[0].to[1].networks: Forbidden: may not be set together with a destinationNamedPort",
    ),
    (
        lambda s: s["egress"][0]["protocols"][0]["udp"]["destinationPort"].update(number=0),
        f"{_PORT}.number: Invalid value: 0: must be between 1 and 65535, inclusive",
    ),
    (
        lambda s: s["egress"][0]["protocols"][0]["udp"]["destinationPort"].update(range={"start": 1, "end": 2}),
        f"{_PORT}: must have exactly one of number, range",
    ),
    (
        lambda s: s["egress"][0]["protocols"][0]["udp"].update(destinationPort={"range": {"start": 9, "end": 9}}),
        f"{_PORT}.range.end: Invalid value: 9: must be greater than `start`",
    ),
    (
        lambda s: s["egress"][0]["to"].append({"domainNames": ["*.org."]}),
        'spec.egress[0].to[2].domainNames[0]: Invalid value: "*.org.": must be a domain name, or *. and a domain name',
    ),
    (
        lambda s: s["egress"][0]["to"].append({"domainNames": ["*.kubernetes.io"]}),
        "spec.egress[0].to[2].domainNames: not yet enforced",
    ),
]


@pytest.mark.parametrize(("change", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_what_is_refused(change: Change, words: str) -> None:
    spec = copy.deepcopy(whole_spec())
    parse_cluster_network_policy_spec(spec)
    change(spec)
    with pytest.raises(Invalid) as refused:
        parse_cluster_network_policy_spec(spec)
    assert str(refused.value) == words


def conformance_cases() -> Iterator[Case]:
    if not FILE.is_file():
        pytest.skip(f"the policy cases are missing: {FILE} (set KILIM_POLICY_CASES to their folder)")
    with lzma.open(FILE) as stream:
        yield from (case for case in json.load(stream) if case["kind"] == "clusternetworkpolicy")


def test_every_probe_of_every_conformance_case(capsys: pytest.CaptureFixture[str]) -> None:
    """Pods in the network of their host are nodes to everybody."""
    wrong: list[tuple[str, Any]] = []
    cases = probes = 0
    for case in conformance_cases():
        cases += 1
        ends = {f"{pod['ns']}/{pod['name']}": pod for pod in case["pods"]}
        cluster = cluster_of({**case, "pods": [pod for pod in case["pods"] if not pod["hostNetwork"]]})
        for number, pod in enumerate(each for each in case["pods"] if each["hostNetwork"]):
            cluster.do(RegisterNode(f"host{number}", pod["ip"], (f"10.99.{number}.0/24",)))
        tables = cluster.tables()
        for probe in case["probes"]:
            source, destination = ends[probe["from"]]["ip"], ends[probe["to"]]["ip"]
            here, there = (tables.get(node_of(each)) for each in (source, destination))
            ips = parse_ip(source), parse_ip(destination)
            got = verdict(here, there, *ips, PROTOCOLS[probe["proto"]], probe["port"])
            probes += 1
            if got.allowed != (probe["expect"] == "allow"):
                wrong.append((case["name"], probe))
    with capsys.disabled():
        print(f"\n{cases} conformance cases, {probes} probes on the tables")
    assert wrong == []
    assert probes > 300
