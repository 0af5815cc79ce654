"""NetworkPolicy specs: defaulting, empty against missing, and every refusal with its path and rule."""

import pytest

from kilim.model.address import parse_cidr
from kilim.model.invalid import Invalid
from kilim.model.network_policy import IpBlock, PodPeer, PortMatch, parse_network_policy_spec
from kilim.model.selector import Selector

ANYBODY = Selector()


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, True, False),
        (None, True, False),
        ({"egress": []}, True, False),
        ({"egress": [{}]}, True, True),
        ({"policyTypes": []}, True, False),
        ({"policyTypes": ["Egress"]}, False, True),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, False, True),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, True, False),
        ({"policyTypes": ["Ingress", "Egress"]}, True, True),
        ({"policyTypes": ["Ingress", "Ingress"]}, True, False),
    ],
)
def test_policy_types(spec: object, ingress: bool, egress: bool) -> None:
    parsed = parse_network_policy_spec(spec)
    assert (parsed.ingress is not None, parsed.egress is not None) == (ingress, egress)


def test_empty_and_missing_lists() -> None:
    nobodies: tuple[object, ...] = (None, [])
    for nobody in nobodies:
        assert parse_network_policy_spec({"ingress": nobody}).ingress == ()
    anybodies: tuple[object, ...] = ({}, {"from": []}, {"from": None, "ports": []}, None)
    for anybody in anybodies:
        (rule,) = parse_network_policy_spec({"ingress": [anybody]}).ingress or ()
        assert rule.peers is None and rule.ports is None


def test_peers_and_ports() -> None:
    spec = {
        "egress": [
            {
                "to": [
                    {"podSelector": {}},
                    {"namespaceSelector": {}},
                    {"namespaceSelector": {}, "podSelector": {}},
                    {"namespaceSelector": {}, "podSelector": None},
                    {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.2.0.0/16", "10.1.0.0/16", "10.1.0.0/16"]}},
                    {"ipBlock": {"cidr": "2001:db8::1/64", "except": ["2001:db8::/96"]}},
                ],
                "ports": [{}, {"port": 80}, {"port": "web", "protocol": "UDP"}, {"port": 1, "endPort": 65535}],
            }
        ]
    }
    (rule,) = parse_network_policy_spec(spec).egress or ()
    assert rule.peers == (
        PodPeer(ANYBODY, None),
        PodPeer(None, ANYBODY),
        PodPeer(ANYBODY, ANYBODY),
        PodPeer(None, ANYBODY),
        IpBlock(parse_cidr("10.0.0.0/8"), (parse_cidr("10.1.0.0/16"), parse_cidr("10.2.0.0/16"))),
        IpBlock(parse_cidr("2001:db8::/64"), (parse_cidr("2001:db8::/96"),)),
    )
    assert rule.ports == (PortMatch(6, None), PortMatch(6, 80), PortMatch(17, "web"), PortMatch(6, 1, 65535))


def rule_with(**fields: object) -> dict[str, object]:
    return {"ingress": [{}, fields]}


def block(cidr: object, *excepts: object) -> dict[str, object]:
    return rule_with(**{"from": [{"ipBlock": {"cidr": cidr, "except": list(excepts)}}]})


RULE = "spec.ingress[1]"
BLOCK = f"{RULE}.from[0].ipBlock"
PORT = f"{RULE}.ports[0]"


@pytest.mark.parametrize(
    ("spec", "path", "rule"),
    [
        ([], "spec", "must be an object, not a list"),
        ({"podselector": {}}, "spec.podselector", 'unknown field "podselector"'),
        ({"podSelector": []}, "spec.podSelector", "must be an object, not a list"),
        ({"policyTypes": "Ingress"}, "spec.policyTypes", "must be a list, not a string"),
        ({"policyTypes": ["ingress"]}, "spec.policyTypes[0]", 'supported values: "Egress", "Ingress"'),
        ({"policyTypes": [1]}, "spec.policyTypes[0]", "must be a string, not a number"),
        ({"policyTypes": ["Ingress", "Egress", "Egress"]}, "spec.policyTypes", "may not specify more than two"),
        ({"ingress": {}}, "spec.ingress", "must be a list, not an object"),
        ({"ingress": ["x"]}, "spec.ingress[0]", "must be an object, not a string"),
        (rule_with(to=[]), f"{RULE}.to", 'unknown field "to"'),
        (rule_with(**{"from": [{}]}), f"{RULE}.from[0]", "Required value: must specify a peer"),
        (rule_with(**{"from": [None]}), f"{RULE}.from[0]", "Required value: must specify a peer"),
        (rule_with(**{"from": [{"pod": {}}]}), f"{RULE}.from[0].pod", "unknown field"),
        (
            rule_with(**{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
            f"{RULE}.from[0]",
            "Forbidden: may not specify both ipBlock and another peer",
        ),
        (block(None), f"{BLOCK}.cidr", "Required value"),
        (block(10), f"{BLOCK}.cidr", "must be a string, not a number"),
        (block("10.0.0.0"), f"{BLOCK}.cidr", 'Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.'),
        (block("10.0.0.0/33"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("10.0.0/8"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("10.0.0.256/8"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("10.0.0.0/255.0.0.0"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("2001:db8::"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("2001:db8::/129"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("fe80::1%eth0/64"), f"{BLOCK}.cidr", "must be a valid CIDR value"),
        (block("10.0.0.0/8", "11.0.0.0/16"), f"{BLOCK}.except[0]", "must be a strict subset of `cidr`"),
        (block("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8"), f"{BLOCK}.except[1]", "must be a strict subset of `cidr`"),
        (block("10.0.0.0/8", "0.0.0.0/0"), f"{BLOCK}.except[0]", "must be a strict subset of `cidr`"),
        (block("0.0.0.0/0", "2001:db8::/64"), f"{BLOCK}.except[0]", "must be a strict subset of `cidr`"),
        (block("10.0.0.0/8", "10.0.0.1"), f"{BLOCK}.except[0]", "must be a valid CIDR value"),
        (rule_with(ports=[{"port": 0}]), f"{PORT}.port", "Invalid value: 0: must be between 1 and 65535, inclusive"),
        (rule_with(ports=[{"port": 65536}]), f"{PORT}.port", "must be between 1 and 65535, inclusive"),
        (rule_with(ports=[{"port": True}]), f"{PORT}.port", "must be an integer, not a boolean"),
        (rule_with(ports=[{"port": 80.0}]), f"{PORT}.port", "must be an integer, not a number"),
        (rule_with(ports=[{"port": "80"}]), f"{PORT}.port", "must contain at least one letter (a-z)"),
        (rule_with(ports=[{"port": ""}]), f"{PORT}.port", "must contain only alpha-numeric characters"),
        (rule_with(ports=[{"port": "Http"}]), f"{PORT}.port", "must contain only alpha-numeric characters"),
        (rule_with(ports=[{"port": "a--b"}]), f"{PORT}.port", "must not contain consecutive hyphens"),
        (rule_with(ports=[{"port": "-a"}]), f"{PORT}.port", "must not begin or end with a hyphen"),
        (rule_with(ports=[{"port": "a-name-of-sixteen"}]), f"{PORT}.port", "must be no more than 15 characters"),
        (rule_with(ports=[{"protocol": "ICMP"}]), f"{PORT}.protocol", 'values: "SCTP", "TCP", "UDP"'),
        (rule_with(ports=[{"protocol": "tcp"}]), f"{PORT}.protocol", 'Unsupported value: "tcp"'),
        (rule_with(ports=[{"port": 80, "endPort": 79}]), f"{PORT}.endPort", "must be greater than or equal to `port`"),
        (rule_with(ports=[{"port": 80, "endPort": 65536}]), f"{PORT}.endPort", "must be between 1 and 65535"),
        (rule_with(ports=[{"port": 80, "endPort": "90"}]), f"{PORT}.endPort", "must be an integer, not a string"),
        (rule_with(ports=[{"port": "web", "endPort": 90}]), f"{PORT}.endPort", "when `port` is non-numeric"),
        (rule_with(ports=[{"endPort": 90}]), f"{PORT}.endPort", "may not be specified when `port` is not specified"),
        (rule_with(ports=[{"Port": 80}]), f"{PORT}.Port", "unknown field"),
    ],
)  # fmt: skip
def test_refused(spec: object, path: str, rule: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_network_policy_spec(spec)
    assert refusal.value.path == path
    assert rule in refusal.value.rule
