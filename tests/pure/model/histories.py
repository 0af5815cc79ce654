"""Histories of events for hypothesis: a small world, so that names, addresses and numbers collide, nonsense included.

Nothing keeps them in order: endpoints on nodes that never joined, with identities that were never allocated, two on one
address, policies that nobody can read, prefixes that cover pods and nodes. Nodes and endpoints have an address of
either family, of both or none, and may have others after the next event.
"""

import json
from dataclasses import replace

from hypothesis import strategies as st

from kilim.model.address import format_ip, is_ipv6, parse_cidr, parse_ip
from kilim.model.identity import FIRST_CIDR, FIRST_NODE, IPV6_WORLD, NODE_LABEL, Identity, cidr_labels
from kilim.model.labels import security_labels
from kilim.model.nouns import Endpoint, EndpointSlice, NamedPort, Namespace, Node, Policy, Service, Setting
from kilim.model.nouns import endpoint_slice_to_pb as endpoint_slice_pb
from kilim.model.nouns import endpoint_to_pb as endpoint_pb
from kilim.model.nouns import identity_to_pb as identity_pb
from kilim.model.nouns import namespace_to_pb as namespace_pb
from kilim.model.nouns import node_to_pb as node_pb
from kilim.model.nouns import policy_to_pb as policy_pb
from kilim.model.nouns import service_to_pb as service_pb
from kilim.model.nouns import setting_to_pb as setting_pb
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cilium_histories import GROUPED_LABELS, cidr_groups, cilium_policies
from tests.pure.model.service_policies import service_policies

NODES = ("n1", "n2", "n3")
NAMESPACES = ("x", "y")
ADDRESSES = tuple(parse_ip(text) for text in ("10.0.1.1", "10.0.1.2", "10.0.2.1", "172.16.0.1", "0.0.0.0"))
IPV6_ADDRESSES = (0, *(parse_ip(text) for text in ("fd00:1::1", "fd00:1::2", "fd00:2::1", "fd00:60::1", "::")))
CIDRS = tuple(
    parse_cidr(text)
    for text in (
        *("0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.1/32", "172.16.0.1/32", "0.0.0.0/32"),
        *("::/0", "fd00:1::/64", "fd00:1::1/128", "fd00:60::1/128", "2001:db8::/32", "::/32"),
    )
)
LABELS = tuple(
    security_labels(own, namespace, (("team", team),), "", "default")
    for namespace, team in (("x", "a"), ("y", "b"))
    for own in ((("app", "web"),), (("app", "db"),), (("tier", "back"),))
)
OF_ADDRESSES = ("cidr:0--0/0", "cidr:fd00-1--0/64", "kilim:ipv6-only")
POD_NUMBERS = (0, 1, 256, 257, 258, 259, 260)
CIDR_NUMBERS = tuple(range(FIRST_CIDR, FIRST_CIDR + 4))
NODE_NUMBERS = (FIRST_NODE, FIRST_NODE + 1)
NODE_LABELS = (
    ("node:zone=a", NODE_LABEL),
    ("cidr:172.16.0.1/32", "node:zone=b", NODE_LABEL),
    ("cidr:10.0.0.0/8", NODE_LABEL),
)
PORTS = (NamedPort("http", 80, 6), NamedPort("http", 8080, 6), NamedPort("dns", 53, 17), NamedPort("http", 70000, 6))

_requirements: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {},
        {"matchLabels": {"app": "web"}},
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]},
        {"matchExpressions": [{"key": "tier", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
        {"matchLabels": {"team": "a"}},
        {"matchExpressions": [{"key": "team", "operator": "Exists"}, {"key": "app", "operator": "DoesNotExist"}]},
    )
)
_blocks: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {"cidr": "0.0.0.0/0"},
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]},
        {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24", "10.0.2.0/24"]},
        {"cidr": "10.0.1.1/32"},
        {"cidr": "172.16.0.1/32"},
        {"cidr": "0.0.0.0/0", "except": ["172.16.0.1/32"]},
        {"cidr": "2001:db8::/64"},
        {"cidr": "::/0"},
        {"cidr": "::/0", "except": ["fd00:1::/64", "2001:db8::/32"]},
        {"cidr": "fd00:1::1/128"},
    )
)
peers: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.builds(lambda pods: {"podSelector": pods}, _requirements),
    st.builds(lambda namespaces: {"namespaceSelector": namespaces}, _requirements),
    st.builds(lambda n, p: {"namespaceSelector": n, "podSelector": p}, _requirements, _requirements),
    st.builds(lambda block: {"ipBlock": block}, _blocks),
)
_ports: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {},
        {"port": 80},
        {"port": "http"},
        {"port": "http"},
        {"port": "dns", "protocol": "UDP"},
        {"port": 80, "endPort": 90},
        {"protocol": "SCTP"},
    )
)


def _rules(peers_field: str) -> st.SearchStrategy[list[dict[str, object]]]:
    rule: st.SearchStrategy[dict[str, object]] = st.fixed_dictionaries(
        {}, optional={peers_field: st.lists(peers, max_size=2), "ports": st.lists(_ports, max_size=2)}
    )
    return st.lists(rule, max_size=2)


specs = st.fixed_dictionaries(
    {"podSelector": _requirements},
    optional={
        "ingress": _rules("from"),
        "egress": _rules("to"),
        "policyTypes": st.lists(st.sampled_from(("Ingress", "Egress")), max_size=2),
    },
)
_cluster_ports: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {"tcp": {"destinationPort": {"number": 80}}},
        {"tcp": {"destinationPort": {"range": {"start": 80, "end": 90}}}},
        {"udp": {"destinationPort": {"number": 53}}},
    )
)
_cluster_pods: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.builds(lambda namespaces: {"namespaces": namespaces}, _requirements),
    st.builds(lambda n, p: {"pods": {"namespaceSelector": n, "podSelector": p}}, _requirements, _requirements),
)
_cluster_outside: st.SearchStrategy[dict[str, object]] = st.sampled_from(
    (
        {"networks": ["0.0.0.0/0"]},
        {"networks": ["10.0.1.0/24", "172.16.0.1/32"]},
        {"networks": ["0.0.0.0/0", "::/0"]},
        {"networks": ["fd00:60::1/128"]},
        {"nodes": {}},
        {"nodes": {"matchLabels": {"zone": "a"}}},
        {"nodes": {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]}},
    )
)


def _cluster_rules(
    field: str, rule_peers: st.SearchStrategy[dict[str, object]], ports: st.SearchStrategy[dict[str, object]]
) -> st.SearchStrategy[list[dict[str, object]]]:
    fields = {
        "action": st.sampled_from(("Accept", "Deny", "Pass")),
        field: st.lists(rule_peers, min_size=1, max_size=2),
    }
    return st.lists(
        st.fixed_dictionaries(fields, optional={"protocols": st.lists(ports, min_size=1, max_size=2)}), max_size=3
    )


_named_ports: st.SearchStrategy[dict[str, object]] = st.one_of(
    _cluster_ports, st.just({"destinationNamedPort": "http"})
)
cluster_specs = st.fixed_dictionaries(
    {
        "tier": st.sampled_from(("Admin", "Baseline")),
        "priority": st.integers(0, 2),
        "subject": _cluster_pods,
        "ingress": _cluster_rules("from", _cluster_pods, _named_ports),
        "egress": st.one_of(
            _cluster_rules("to", _cluster_pods, _named_ports),
            _cluster_rules("to", st.one_of(_cluster_pods, _cluster_outside), _cluster_ports),
        ),
    }
)
cluster_policies = st.builds(
    lambda name, spec, nodes: Policy("ClusterNetworkPolicy", "", name, json.dumps({"spec": spec}), False, nodes),
    st.sampled_from(("p", "q", "r")),
    cluster_specs,
    st.booleans(),
)
_manifests = st.one_of(
    specs.map(lambda spec: json.dumps({"spec": spec})),
    st.sampled_from(("", "[]", "{", '{"spec":{"podSelector":7}}')),
)
_namespaced_policies = st.builds(
    Policy,
    st.sampled_from(("NetworkPolicy",) * 5 + ("SomethingNew",)),
    st.sampled_from(("x", "x", "y", "")),
    st.sampled_from(("p", "q")),
    _manifests,
    st.just(False),
    st.booleans(),
)
_policies = st.one_of(
    _namespaced_policies,
    _namespaced_policies,
    cluster_policies,
    cilium_policies,
    cilium_policies,
    service_policies,
    cidr_groups,
)
_endpoints = st.builds(
    Endpoint,
    st.sampled_from(NAMESPACES),
    st.sampled_from(("a", "b", "c")),
    st.sampled_from(NODES),
    st.sampled_from((1, 2, 3, 0, 70000)),
    st.sampled_from(ADDRESSES),
    st.sampled_from((*POD_NUMBERS, CIDR_NUMBERS[0])),
    st.lists(st.sampled_from(PORTS), max_size=2).map(tuple),
    policy_audit_mode=st.booleans(),
    ipv6=st.sampled_from(IPV6_ADDRESSES),
)
_base_endpoints = (
    Endpoint("x", "a", "n1", 1, ADDRESSES[0], 256, PORTS[:1]),
    Endpoint("x", "b", "n1", 2, ADDRESSES[1], 257, ipv6=IPV6_ADDRESSES[2]),
    Endpoint("y", "a", "n2", 1, ADDRESSES[2], 259, PORTS[1:3], ipv6=IPV6_ADDRESSES[3]),
    Endpoint("y", "b", "n3", 1, 0, 260, ipv6=IPV6_ADDRESSES[1]),
)
_port_changes = st.builds(
    lambda endpoint, ports: replace(endpoint, named_ports=tuple(ports)),
    st.sampled_from(_base_endpoints),
    st.lists(st.sampled_from(PORTS), max_size=2),
)
_pod_identities = st.builds(
    lambda number, labels, of_addresses: Identity(number, tuple(sorted({*labels, *of_addresses}))),
    st.sampled_from(POD_NUMBERS),
    st.sampled_from(LABELS),
    st.lists(st.sampled_from(OF_ADDRESSES), max_size=2) | st.just(()),
)
_odd_identities = st.builds(Identity, st.sampled_from(POD_NUMBERS), st.sampled_from(((), ("",), ("=", "a=b", "a=c"))))
_cidr_labels = st.sampled_from((*map(cidr_labels, CIDRS), *GROUPED_LABELS, ("cidr:nonsense",)))
_cidr_identities = st.builds(Identity, st.sampled_from(CIDR_NUMBERS), _cidr_labels)
_node_identities = st.builds(Identity, st.sampled_from(NODE_NUMBERS), st.sampled_from(NODE_LABELS))
identities = st.one_of(_pod_identities, _pod_identities, _odd_identities, _cidr_identities, _node_identities)
_nodes = st.builds(
    lambda name, ip, identity, ipv6: Node(name, ip, identity=identity, ipv6=ipv6),
    st.sampled_from(NODES),
    st.sampled_from(ADDRESSES),
    st.sampled_from((0, *NODE_NUMBERS)),
    st.sampled_from(IPV6_ADDRESSES),
)


_settings = st.one_of(
    st.builds(Setting, st.just("allow-localhost"), st.sampled_from(("auto", "always", "policy", "", "nonsense"))),
    st.builds(Setting, st.just("enable-policy"), st.sampled_from(("default", "always", "never", "", "nonsense"))),
    st.builds(
        Setting,
        st.just("policy-audit-mode"),
        st.sampled_from(("true", "true", "false", "")),
        st.sampled_from(("", "n1", "n2", "n9")),
    ),
)


_service_manifests = st.one_of(
    st.builds(
        lambda labels, selector: json.dumps({"metadata": {"labels": labels}, "spec": {"selector": selector}}),
        st.sampled_from(({}, {"app": "web"}, {"team": "a"})),
        st.sampled_from((None, None, {}, {"app": "web"}, {"app": "db"})),
    ),
    st.sampled_from(("", "[]", '{"spec":7}')),
)
_services = st.builds(
    Service, st.sampled_from(("x", "y", "default")), st.sampled_from(("s", "kubernetes")), _service_manifests
)
_slice_manifests = st.one_of(
    st.builds(
        lambda service, addresses, ready: json.dumps(
            {
                "addressType": "IPv6" if addresses and is_ipv6(addresses[0]) else "IPv4",
                "metadata": {"labels": {"kubernetes.io/service-name": service}},
                "endpoints": [{"addresses": [format_ip(ip)], "conditions": ready} for ip in addresses],
            }
        ),
        st.sampled_from(("s", "kubernetes")),
        st.lists(st.sampled_from(ADDRESSES), max_size=3) | st.lists(st.sampled_from(IPV6_ADDRESSES[1:]), max_size=2),
        st.sampled_from(({}, {}, {"ready": False})),
    ),
    st.sampled_from(("", "[]", '{"endpoints":7}')),
)
_slices = st.builds(
    EndpointSlice, st.sampled_from(("x", "y", "default")), st.sampled_from(("s-1", "s-2")), _slice_manifests
)


def _event(**body: object) -> pb.Event:
    return pb.Event(**body)  # type: ignore[arg-type]


_added = _endpoints.map(lambda e: _event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_pb(e))))
_allocated = _pod_identities.map(lambda i: _event(identity_allocated=pb.IdentityAllocated(identity=identity_pb(i))))
_applied = _policies.map(lambda p: _event(policy_replaced=pb.PolicyReplaced(policy=policy_pb(p))))

service_events: st.SearchStrategy[pb.Event] = st.one_of(
    _services.map(lambda s: _event(service_replaced=pb.ServiceReplaced(service=service_pb(s)))),
    _services.map(lambda s: _event(service_removed=pb.ServiceRemoved(namespace=s.namespace, name=s.name))),
    _slices.map(
        lambda s: _event(endpoint_slice_replaced=pb.EndpointSliceReplaced(endpoint_slice=endpoint_slice_pb(s)))
    ),
    _slices.map(lambda s: _event(endpoint_slice_removed=pb.EndpointSliceRemoved(namespace=s.namespace, name=s.name))),
)
events: st.SearchStrategy[pb.Event] = st.one_of(
    _added,
    st.one_of(_endpoints, _port_changes).map(
        lambda e: _event(endpoint_updated=pb.EndpointUpdated(endpoint=endpoint_pb(e)))
    ),
    _allocated,
    _allocated,
    _applied,
    _applied,
    st.one_of(_odd_identities, _cidr_identities, _cidr_identities, _node_identities, st.just(IPV6_WORLD)).map(
        lambda i: _event(identity_allocated=pb.IdentityAllocated(identity=identity_pb(i)))
    ),
    st.sampled_from((*POD_NUMBERS, *CIDR_NUMBERS, *NODE_NUMBERS, IPV6_WORLD.id)).map(
        lambda n: _event(identity_released=pb.IdentityReleased(id=n))
    ),
    _endpoints.map(lambda e: _event(endpoint_removed=pb.EndpointRemoved(namespace=e.namespace, name=e.name))),
    _policies.map(lambda p: _event(policy_removed=pb.PolicyRemoved(kind=p.kind, namespace=p.namespace, name=p.name))),
    _settings.map(lambda s: _event(setting_changed=pb.SettingChanged(setting=setting_pb(s)))),
    _nodes.map(lambda n: _event(node_joined=pb.NodeJoined(node=node_pb(n)))),
    _nodes.map(lambda n: _event(node_left=pb.NodeLeft(name=n.name))),
    service_events,
    service_events,
    st.sampled_from(NAMESPACES).map(
        lambda n: _event(namespace_labelled=pb.NamespaceLabelled(namespace=namespace_pb(Namespace(n))))
    ),
)

# A cluster in order to begin with; without it most events would meet nothing to act on.
BASE: list[pb.Event] = [
    *(_event(node_joined=pb.NodeJoined(node=node_pb(Node(n, parse_ip(f"172.16.0.{n[1]}"))))) for n in NODES[:2]),
    _event(node_joined=pb.NodeJoined(node=node_pb(Node("n3", 0, ipv6=parse_ip("fd00:60::3"))))),
    _event(identity_allocated=pb.IdentityAllocated(identity=identity_pb(Identity(FIRST_NODE, NODE_LABELS[1])))),
    _event(node_updated=pb.NodeUpdated(node=node_pb(Node("n1", parse_ip("172.16.0.1"), identity=FIRST_NODE)))),
    *(
        _event(identity_allocated=pb.IdentityAllocated(identity=identity_pb(Identity(256 + i, labels))))
        for i, labels in enumerate(LABELS)
    ),
    *(
        _event(
            identity_allocated=pb.IdentityAllocated(identity=identity_pb(Identity(FIRST_CIDR + i, cidr_labels(cidr))))
        )
        for i, cidr in enumerate((*CIDRS[:3], parse_cidr("2001:db8::/32")))
    ),
    *(_event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_pb(endpoint))) for endpoint in _base_endpoints),
]

histories: st.SearchStrategy[list[pb.Event]] = st.builds(
    lambda policies, rest: BASE + policies + rest,
    st.lists(_applied, min_size=1, max_size=4),
    st.lists(events, min_size=8, max_size=30),
)
