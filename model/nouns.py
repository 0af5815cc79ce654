"""The nouns of the state as frozen values, each with its canonical bytes (the messages of events.proto).

Canonical: lists that stand for sets are sorted, so equal values give equal bytes on every machine (I1).
"""

from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.address import IPV6, mapped
from kilim.model.identity import Identity
from kilim.model.labels import LabelPairs
from kilim.v1 import events_pb2 as pb

HEALTH_NAMESPACE = "kilim-health"  # of the health endpoint of each node, which has its name


class NamedPort(NamedTuple):
    name: str
    port: int
    protocol: int  # IANA protocol number


@dataclass(frozen=True, slots=True)
class Node:
    """`identity` is what other nodes know it by; 0: remote-node, as no policy tells it from others. It has an IPv4
    address (`ip`) or an IPv6 one or both; 0: none."""

    name: str
    ip: int
    pod_cidrs: tuple[str, ...] = ()
    labels: LabelPairs = ()
    identity: int = 0
    ipv6: int = 0

    @property
    def ips(self) -> tuple[int, ...]:
        return _some(self.ip, self.ipv6)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One workload interface on one node; (namespace, name) is its key. It has an IPv4 address (`ip`) or an IPv6 one or
    both; 0: none."""

    namespace: str
    name: str
    node: str
    endpoint_id: int
    ip: int
    identity: int
    named_ports: tuple[NamedPort, ...] = ()
    container_id: str = ""
    labels: LabelPairs = ()
    service_account: str = ""
    policy_audit_mode: bool = False
    ipv6: int = 0

    @property
    def ips(self) -> tuple[int, ...]:
        return _some(self.ip, self.ipv6)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy object as applied; `manifest_json` has sorted keys and no white space.

    `cidrs_exclude_pods`: what the setting says of the kinds whose CIDRs select pods too, so that its events say it all.
    `cidrs_include_nodes`: its CIDRs select nodes too.
    """

    kind: str
    namespace: str
    name: str
    manifest_json: str
    cidrs_exclude_pods: bool = False
    cidrs_include_nodes: bool = False


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    labels: LabelPairs = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """The parts of a v1 Pod that matter to networking."""

    namespace: str
    name: str
    labels: LabelPairs = ()
    service_account: str = ""
    named_ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """(name, node) is its key; without a node it is the cluster's."""

    name: str
    value: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A v1 Service as applied; `manifest_json` has sorted keys and no white space."""

    namespace: str
    name: str
    manifest_json: str


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A discovery.k8s.io/v1 EndpointSlice as applied; `manifest_json` has sorted keys and no white space."""

    namespace: str
    name: str
    manifest_json: str


Noun = Node | Identity | Endpoint | Policy | Namespace | Pod | Setting | Service | EndpointSlice


def _some(*ips: int) -> tuple[int, ...]:
    return tuple(ip for ip in ips if ip)


def _ipv6_to_pb(ip: int) -> bytes:
    return mapped(ip) if ip else b""


def ipv6_of(message: pb.Node | pb.Endpoint) -> int:
    """0: none, or no 16 bytes (I1: nothing that folds may raise)."""
    return IPV6 | int.from_bytes(message.ipv6, "big") if len(message.ipv6) == 16 else 0


def ips_of(message: pb.Endpoint) -> tuple[int, ...]:
    """As `Endpoint.ips`, without the work of making one."""
    if not message.ipv6:
        return (message.ip,) if message.ip else ()
    return _some(message.ip, ipv6_of(message))


def ips_or_zero(message: pb.Endpoint) -> tuple[int, ...]:
    """The same, and 0 where it has none, so that what has no address is found by that."""
    return ips_of(message) or (0,)


def _labels_to_pb(labels: LabelPairs) -> list[pb.Label]:
    return [pb.Label(key=key, value=value) for key, value in sorted(labels)]


def _ports_to_pb(ports: tuple[NamedPort, ...]) -> list[pb.NamedPort]:
    return [pb.NamedPort(name=p.name, port=p.port, protocol=p.protocol) for p in sorted(ports)]


def _labels(message: pb.Node | pb.Endpoint | pb.Namespace | pb.Pod) -> LabelPairs:
    return tuple((label.key, label.value) for label in message.labels)


def ports_of(message: pb.Endpoint | pb.Pod) -> tuple[NamedPort, ...]:
    return tuple(NamedPort(p.name, p.port, p.protocol) for p in message.named_ports)


def node_to_pb(node: Node) -> pb.Node:
    labels = _labels_to_pb(node.labels)
    return pb.Node(
        name=node.name,
        ip=node.ip,
        pod_cidrs=node.pod_cidrs,
        labels=labels,
        identity=node.identity,
        ipv6=_ipv6_to_pb(node.ipv6),
    )


def identity_to_pb(identity: Identity) -> pb.Identity:
    return pb.Identity(id=identity.id, labels=sorted(identity.labels))


def endpoint_to_pb(endpoint: Endpoint) -> pb.Endpoint:
    return pb.Endpoint(
        namespace=endpoint.namespace,
        name=endpoint.name,
        node=endpoint.node,
        endpoint_id=endpoint.endpoint_id,
        ip=endpoint.ip,
        identity=endpoint.identity,
        named_ports=_ports_to_pb(endpoint.named_ports),
        container_id=endpoint.container_id,
        labels=_labels_to_pb(endpoint.labels),
        service_account=endpoint.service_account,
        policy_audit_mode=endpoint.policy_audit_mode,
        ipv6=_ipv6_to_pb(endpoint.ipv6),
    )


def policy_to_pb(policy: Policy) -> pb.Policy:
    return pb.Policy(
        kind=policy.kind,
        namespace=policy.namespace,
        name=policy.name,
        manifest_json=policy.manifest_json,
        cidrs_exclude_pods=policy.cidrs_exclude_pods,
        cidrs_include_nodes=policy.cidrs_include_nodes,
    )


def namespace_to_pb(namespace: Namespace) -> pb.Namespace:
    return pb.Namespace(name=namespace.name, labels=_labels_to_pb(namespace.labels))


def pod_to_pb(pod: Pod) -> pb.Pod:
    return pb.Pod(
        namespace=pod.namespace,
        name=pod.name,
        labels=_labels_to_pb(pod.labels),
        service_account=pod.service_account,
        named_ports=_ports_to_pb(pod.named_ports),
    )


def setting_to_pb(setting: Setting) -> pb.Setting:
    return pb.Setting(name=setting.name, value=setting.value, node=setting.node)


def service_to_pb(service: Service) -> pb.Service:
    return pb.Service(namespace=service.namespace, name=service.name, manifest_json=service.manifest_json)


def endpoint_slice_to_pb(part: EndpointSlice) -> pb.EndpointSlice:
    return pb.EndpointSlice(namespace=part.namespace, name=part.name, manifest_json=part.manifest_json)


def decode_node(data: bytes) -> Node:
    m = pb.Node.FromString(data)
    return Node(m.name, m.ip, tuple(m.pod_cidrs), _labels(m), m.identity, ipv6_of(m))


def decode_identity(data: bytes) -> Identity:
    m = pb.Identity.FromString(data)
    return Identity(m.id, tuple(m.labels))


def decode_endpoint(data: bytes) -> Endpoint:
    m = pb.Endpoint.FromString(data)
    return Endpoint(
        m.namespace,
        m.name,
        m.node,
        m.endpoint_id,
        m.ip,
        m.identity,
        ports_of(m),
        m.container_id,
        _labels(m),
        m.service_account,
        m.policy_audit_mode,
        ipv6_of(m),
    )


def decode_endpoint_identity(data: bytes) -> int:
    return int(pb.Endpoint.FromString(data).identity)


def decode_policy(data: bytes) -> Policy:
    m = pb.Policy.FromString(data)
    return Policy(m.kind, m.namespace, m.name, m.manifest_json, m.cidrs_exclude_pods, m.cidrs_include_nodes)


def decode_namespace(data: bytes) -> Namespace:
    m = pb.Namespace.FromString(data)
    return Namespace(m.name, _labels(m))


def decode_pod(data: bytes) -> Pod:
    m = pb.Pod.FromString(data)
    return Pod(m.namespace, m.name, _labels(m), m.service_account, ports_of(m))


def decode_setting(data: bytes) -> Setting:
    m = pb.Setting.FromString(data)
    return Setting(m.name, m.value, m.node)


def decode_service(data: bytes) -> Service:
    m = pb.Service.FromString(data)
    return Service(m.namespace, m.name, m.manifest_json)


def decode_endpoint_slice(data: bytes) -> EndpointSlice:
    m = pb.EndpointSlice.FromString(data)
    return EndpointSlice(m.namespace, m.name, m.manifest_json)
