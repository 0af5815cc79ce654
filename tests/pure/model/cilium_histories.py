"""Policies of cilium.io for histories: the small world of `histories.py`, every field that is enforced.

All of them are valid by themselves (`test_histories.py`), whatever else a history may hold.
"""

import json

from hypothesis import strategies as st

from kilim.model.address import parse_cidr
from kilim.model.cidr_group import CIDR_GROUP, label_of_group
from kilim.model.identity import cidr_labels
from kilim.model.nouns import Policy

Value = dict[str, object]

NAMESPACE_KEYS = ("io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace")
GROUPS = ("g1", "g2")
GROUP_LABELS = (("team", "a"),)
GROUPED_LABELS = tuple(
    tuple(sorted((*cidr_labels(parse_cidr(cidr)), *(label_of_group(name, GROUP_LABELS) for name in names))))
    for cidr in ("10.0.0.0/8", "10.0.1.0/24", "172.16.0.1/32")
    for names in (GROUPS[:1], GROUPS)
)

_own: st.SearchStrategy[Value] = st.sampled_from(
    (
        {},
        {"matchLabels": {"app": "web"}},
        {"matchLabels": {"k8s:app": "db"}},
        {"matchLabels": {"any:tier": "back"}},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]},
        {"matchExpressions": [{"key": "k8s:tier", "operator": "DoesNotExist"}]},
        {"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "default"}},
    )
)
_elsewhere: st.SearchStrategy[Value] = st.sampled_from(
    (
        *({"matchLabels": {key: "y"}} for key in NAMESPACE_KEYS),
        {"matchLabels": {"io.cilium.k8s.namespace.labels.team": "a"}},
        {"matchExpressions": [{"key": NAMESPACE_KEYS[0], "operator": "In", "values": ["x", "y"]}]},
        {"matchExpressions": [{"key": NAMESPACE_KEYS[1], "operator": "NotIn", "values": ["x"]}]},
        {"matchExpressions": [{"key": NAMESPACE_KEYS[0], "operator": "Exists"}]},
        {"matchLabels": {"reserved:remote-node": ""}},
        {"matchExpressions": [{"key": "reserved:world", "operator": "Exists"}]},
        {"matchLabels": {"io.cilium.k8s.policy.cluster": "default"}},
    )
)
_endpoints = st.one_of(_own, _elsewhere)
_entities = st.sampled_from(
    ("all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node", "health", "init", "none")
)
_nodes: st.SearchStrategy[Value] = st.sampled_from(
    ({}, {"matchLabels": {"zone": "a"}}, {"matchExpressions": [{"key": "node:zone", "operator": "Exists"}]})
)
_cidrs = st.sampled_from(("0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.1", "172.16.0.1/32", "::/0", "fd00:1::1"))
_cidr_sets: st.SearchStrategy[Value] = st.sampled_from(
    (
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.1/32"]},
        {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24"]},
        {"cidr": "10.0.1.0/24"},
        {"cidr": "::/0", "except": ["2001:db8::/32"]},
        {"cidrGroupRef": "g1"},
        {"cidrGroupRef": "g2", "except": ["10.0.1.0/24"]},
        {"cidrGroupSelector": {"matchLabels": {"team": "a"}}},
        {"cidrGroupSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}},
    )
)
_PEERS: dict[str, st.SearchStrategy[list[object]]] = {
    "Endpoints": st.lists(_endpoints, max_size=2),
    "Entities": st.lists(_entities, min_size=1, max_size=2),
    "CIDR": st.lists(_cidrs, min_size=1, max_size=2),
    "CIDRSet": st.lists(_cidr_sets, min_size=1, max_size=2),
    "Nodes": st.lists(_nodes, min_size=1, max_size=2),
}
_ports: st.SearchStrategy[Value] = st.sampled_from(
    (
        {"port": "80"},
        {"port": "80", "protocol": "TCP"},
        {"port": "0", "protocol": "UDP"},
        {"port": "80", "endPort": 90, "protocol": "ANY"},
        {"port": "http"},
        {"port": "HTTP", "protocol": "TCP"},
        {"port": "dns", "protocol": "UDP"},
        {"port": "7", "protocol": "SCTP"},
    )
)
_types: st.SearchStrategy[Value] = st.sampled_from(
    ({"type": 8}, {"type": "EchoReply"}, {"type": "0", "family": "IPv4"}, {"type": 128, "family": "IPv6"})
)
_layer4: st.SearchStrategy[Value] = st.one_of(
    st.just({}),
    st.lists(_ports, max_size=2).map(lambda ports: {"toPorts": [{"ports": ports}]}),
    st.lists(_types, max_size=2).map(lambda fields: {"icmps": [{"fields": fields}]}),
)


def _layer3(side: str) -> st.SearchStrategy[Value]:
    each = [items.map(lambda found, name=name: {side + name: found}) for name, items in _PEERS.items()]  # type: ignore[misc]
    return st.one_of(st.just({}), *each)


def _rules(side: str) -> st.SearchStrategy[list[Value]]:
    return st.lists(st.builds(lambda peers, ports: {**peers, **ports}, _layer3(side), _layer4), max_size=2)


_sections = {
    section: _rules("from" if section.startswith("ingress") else "to")
    for section in ("ingress", "ingressDeny", "egress", "egressDeny")
}
_default_deny = st.dictionaries(st.sampled_from(("ingress", "egress")), st.booleans())
cilium_specs: st.SearchStrategy[Value] = st.builds(
    lambda subjects, sections, deny: {"endpointSelector": subjects, **sections, **deny},
    _own,
    st.fixed_dictionaries({}, optional=_sections).filter(bool),
    st.one_of(st.just({}), _default_deny.map(lambda directions: {"enableDefaultDeny": directions})),
)
_bodies: st.SearchStrategy[Value] = st.one_of(
    cilium_specs.map(lambda spec: {"spec": spec}),
    st.lists(cilium_specs, min_size=1, max_size=3).map(lambda specs: {"specs": specs}),
    st.builds(lambda spec, other: {"spec": spec, "specs": [other]}, cilium_specs, cilium_specs),
)


def _noun(kind: str, namespace: str, name: str, body: Value, nodes_in_cidrs: bool = False) -> Policy:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    manifest = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, **body}
    return Policy(kind, namespace, name, json.dumps(manifest), False, nodes_in_cidrs)


def _group(name: str, cidrs: list[str], labelled: bool) -> Policy:
    group = _noun(CIDR_GROUP, "", name, {"spec": {"externalCIDRs": cidrs}})
    labels = {"labels": dict(GROUP_LABELS)} if labelled else {}
    manifest = json.loads(group.manifest_json)
    return Policy(CIDR_GROUP, "", name, json.dumps({**manifest, "metadata": {"name": name, **labels}}))


_names = st.sampled_from(("p", "q"))
cilium_policies: st.SearchStrategy[Policy] = st.one_of(
    st.builds(_noun, st.just("CiliumNetworkPolicy"), st.sampled_from(("x", "y")), _names, _bodies, st.booleans()),
    st.builds(_noun, st.just("CiliumClusterwideNetworkPolicy"), st.just(""), _names, _bodies, st.booleans()),
)
_prefixes = st.sampled_from(("10.0.0.0/8", "10.0.1.0/24", "172.16.0.1/32"))
cidr_groups: st.SearchStrategy[Policy] = st.builds(
    _group, st.sampled_from(GROUPS), st.lists(_prefixes, max_size=2), st.booleans()
)
