"""The inner form: what a NetworkPolicy selects, prefixes of ranges, prefixes to allocate, and unreadable manifests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.model.address import parse_cidr
from kilim.model.compile import cidrs_of, parts_as_written
from kilim.model.identity import FIRST_CIDR, RESERVED, Identity, cidr_labels, membership_label
from kilim.model.labels import label_map, security_labels
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from kilim.model.rules import CidrPeer, PolicyRules, peer_matches, port_prefixes
from kilim.model.service_index import Services
from kilim.model.state import State

NO_SERVICES = Services(State())


def policy(spec: object, namespace: str = "x") -> Policy:
    metadata = {"name": "p", "namespace": namespace}
    noun = parse_manifest(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    ).noun
    assert isinstance(noun, Policy)
    return noun


def compiled(spec: object) -> PolicyRules:
    return parts_as_written(policy(spec))[0]


def pod(namespace: str, team: str, **labels: str) -> Identity:
    return Identity(300, security_labels(tuple(labels.items()), namespace, (("team", team),), "", "default"))


BLOCKS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16")


def member(namespace: str, *blocks: str) -> Identity:
    """A pod whose address lies in them."""
    labels = (*pod(namespace, "c").labels, *(membership_label(parse_cidr(block)) for block in blocks))
    return Identity(301, tuple(sorted(labels)))


@pytest.mark.parametrize(
    ("peer", "selected"),
    [
        ({"podSelector": {}}, {"x/web", "x/db"}),
        ({"podSelector": {"matchLabels": {"app": "web"}}}, {"x/web"}),
        ({"namespaceSelector": {}}, {"x/web", "x/db", "y/web", "z/in", "z/out"}),
        ({"namespaceSelector": {"matchLabels": {"team": "b"}}}, {"y/web"}),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}}, {"y/web"}),
        ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}, {"x/web", "y/web"}),
        ({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}, set()),
        ({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}}, {"x/db"}),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"10.0.0.0/8", "10.2.0.0/16", "z/in"}),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}}, {*BLOCKS, "z/in", "z/out"}),
        ({"ipBlock": {"cidr": "10.1.2.0/24"}}, {"10.1.2.0/24"}),
        ({"ipBlock": {"cidr": "0.0.0.0/0"}}, {*BLOCKS, "x/web", "x/db", "y/web", "z/in", "z/out"}),
    ],
)  # fmt: skip
def test_whom_a_peer_selects(peer: object, selected: set[str]) -> None:
    (rule,) = compiled({"ingress": [{"from": [peer]}]}).rules
    assert rule.peers is not None and len(rule.peers) == 1
    everybody = {
        "x/web": pod("x", "a", app="web"),
        "x/db": pod("x", "a", app="db"),
        "y/web": pod("y", "b", app="web"),
        "z/in": member("z", "10.0.0.0/8"),
        "z/out": member("z", "10.0.0.0/8", "10.1.0.0/16"),
        **{str(number): identity for number, identity in RESERVED.items()},
    }
    for number, text in enumerate(BLOCKS):
        everybody[text] = Identity(FIRST_CIDR + number, cidr_labels(parse_cidr(text)))
    assert {name for name, identity in everybody.items() if peer_matches(rule.peers[0], identity)} == selected


def test_a_block_is_of_its_family() -> None:
    everybody = {
        "old": pod("x", "a"),
        "both": Identity(257, tuple(sorted((*pod("x", "a").labels, "cidr:0--0/0")))),
        "new": Identity(258, tuple(sorted((*pod("x", "a").labels, "cidr:0--0/0", "kilim:ipv6-only")))),
        "inside": Identity(259, tuple(sorted((*pod("x", "a").labels, "cidr:0--0/0", "cidr:2001-db8--0/32")))),
        "10.0.0.0/8": Identity(FIRST_CIDR, cidr_labels(parse_cidr("10.0.0.0/8"))),
        "2001:db8:1::/64": Identity(FIRST_CIDR + 1, cidr_labels(parse_cidr("2001:db8:1::/64"))),
        "fd00::/8": Identity(FIRST_CIDR + 2, cidr_labels(parse_cidr("fd00::/8"))),
    }

    def selected(cidr: str, *excepts: str) -> set[str]:
        block = {"cidr": cidr, "except": list(excepts)}
        (rule,) = compiled({"ingress": [{"from": [{"ipBlock": block}]}]}).rules
        assert rule.peers is not None
        return {name for name, identity in everybody.items() if peer_matches(rule.peers[0], identity)}

    assert selected("0.0.0.0/0") == {"old", "both", "inside", "10.0.0.0/8"}
    assert selected("::/0") == {"both", "new", "inside", "2001:db8:1::/64", "fd00::/8"}
    assert selected("::/0", "2001:db8::/32") == {"both", "new", "fd00::/8"}
    assert selected("2001:db8::/32") == {"inside", "2001:db8:1::/64"}


def test_a_pod_cannot_claim_another_namespace() -> None:
    claims = {"io.kubernetes.pod.namespace": "y", "io.cilium.k8s.namespace.labels.team": "b"}
    labels = label_map(pod("x", "a", **claims).labels)
    assert labels["k8s:io.kubernetes.pod.namespace"] == "x"
    assert labels["k8s:io.cilium.k8s.namespace.labels.team"] == "a"
    assert security_labels(tuple(claims.items()), "x", (), "", "c") == security_labels((), "x", (), "", "c")


def test_prefixes_to_allocate() -> None:
    block = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
    spec = {"ingress": [{"from": [block, block, {"ipBlock": {"cidr": "9.0.0.0/8"}}]}], "egress": [{"to": [block]}]}
    assert [str(cidr) for cidr in cidrs_of(policy(spec), NO_SERVICES)] == ["9.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16"]
    assert cidrs_of(policy({"policyTypes": ["Egress"], "ingress": [{"from": [block]}]}), NO_SERVICES) == ()


@pytest.mark.parametrize("manifest", ["", "7", "{", '{"spec":{"podSelector":[]}}', "[" * 100_000])
def test_what_cannot_be_read_closes_its_namespace(manifest: str) -> None:
    (rules,) = parts_as_written(Policy("NetworkPolicy", "x", "p", manifest))
    assert (rules.flags, rules.rules) == (3, ())
    assert rules.subjects.matches(label_map(pod("x", "a").labels))
    assert not rules.subjects.matches(label_map(pod("y", "a").labels))
    assert parts_as_written(Policy("New", "", "p", manifest))[0].subjects.matches(label_map(pod("y", "a").labels))


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_prefixes_cover_a_range_exactly(one: int, other: int) -> None:
    first, last = sorted((one, other))
    position = first
    for port, prefix_len in port_prefixes(first, last):
        size = 1 << (16 - prefix_len)
        assert port == position and port % size == 0
        position += size
    assert position == last + 1


def test_prefixes_are_the_fewest() -> None:
    assert port_prefixes(0, 65535) == ((0, 0),)
    assert port_prefixes(80, 80) == ((80, 16),)
    assert port_prefixes(1, 6) == ((1, 16), (2, 15), (4, 15), (6, 16))
    assert port_prefixes(32768, 65535) == ((32768, 1),)


def test_excepts_are_left_out() -> None:
    peer = CidrPeer(parse_cidr("10.0.0.0/8"), (parse_cidr("10.1.0.0/16"),))
    assert [peer.selects(parse_cidr(t)) for t in ("10.0.0.0/8", "10.1.0.0/16", "10.1.9.0/24", "0.0.0.0/0")] == [
        True,
        False,
        False,
        False,
    ]
