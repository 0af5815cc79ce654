"""A state built by events, as a control plane would write them, for tests of what follows from a state.

Identities are allocated here in the plainest way: one number per label set and per prefix that a policy names.
"""

import json
from collections.abc import Mapping

from kilim.model.address import Cidr, parse_ip
from kilim.model.compile import cidrs_of
from kilim.model.fold import fold_event
from kilim.model.identity import FIRST_CIDR, FIRST_CLUSTER_LOCAL, IPV6_WORLD, Identity, cidr_labels
from kilim.model.labels import security_labels, sorted_pairs
from kilim.model.nouns import (
    Endpoint,
    EndpointSlice,
    NamedPort,
    Namespace,
    Node,
    Policy,
    Service,
    Setting,
    endpoint_slice_to_pb,
    endpoint_to_pb,
    identity_to_pb,
    namespace_to_pb,
    node_to_pb,
    policy_to_pb,
    service_to_pb,
    setting_to_pb,
)
from kilim.model.resource import parse_manifest
from kilim.model.service_index import Services
from kilim.model.state import Change, State
from kilim.v1 import events_pb2 as pb


class Cluster:
    def __init__(self) -> None:
        self.state = State()
        self.changes: list[Change] = []
        self._endpoint_ids = 0

    def happen(self, **body: object) -> None:
        self.changes += fold_event(self.state, pb.Event(**body))  # type: ignore[arg-type]

    def node(self, name: str, ip: str) -> None:
        node = Node(name, parse_ip(ip))
        self.happen(node_joined=pb.NodeJoined(node=node_to_pb(node)))

    def world_of_ipv6(self) -> None:
        """As in a cluster with IPv6."""
        self.happen(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(IPV6_WORLD)))

    def namespace(self, name: str, labels: Mapping[str, str]) -> None:
        namespace = Namespace(name, sorted_pairs(labels))
        self.happen(namespace_labelled=pb.NamespaceLabelled(namespace=namespace_to_pb(namespace)))

    def pod(
        self,
        namespace: str,
        name: str,
        node: str,
        ip: str,
        labels: Mapping[str, str],
        ports: tuple[NamedPort, ...] = (),
        service_account: str = "",
    ) -> int:
        """Gives the identity's number."""
        namespace_labels = self.state.namespaces[namespace].labels if namespace in self.state.namespaces else ()
        identity = self.identity(
            security_labels(sorted_pairs(labels), namespace, namespace_labels, service_account, "default")
        )
        self._endpoint_ids += 1
        endpoint = Endpoint(namespace, name, node, self._endpoint_ids, parse_ip(ip), identity, ports)
        self.happen(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(endpoint)))
        return identity

    def identity(self, labels: tuple[str, ...], first: int = FIRST_CLUSTER_LOCAL) -> int:
        if labels not in self.state.identity_of_labels:
            number = next(n for n in range(first, 1 << 32) if n not in self.state.identities)
            self.happen(identity_allocated=pb.IdentityAllocated(identity=identity_to_pb(Identity(number, labels))))
        return self.state.identity_of_labels[labels]

    def cidr(self, cidr: Cidr) -> int:
        return self.identity(cidr_labels(cidr), FIRST_CIDR)

    def apply(self, manifest: object) -> Policy:
        noun = parse_manifest(manifest).noun
        assert isinstance(noun, Policy)
        for cidr in cidrs_of(noun, Services(self.state)):
            self.cidr(cidr)
        self.happen(policy_replaced=pb.PolicyReplaced(policy=policy_to_pb(noun)))
        return noun

    def service(
        self,
        key: str,
        selector: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        **further: object,
    ) -> None:
        """`further`: of its spec. The prefixes that policies name by it get their identities."""
        namespace, _, name = key.partition("/")
        manifest = {"metadata": {"labels": labels or {}}, "spec": {"selector": selector, **further}}
        service = Service(namespace, name, json.dumps(manifest))
        self.happen(service_replaced=pb.ServiceReplaced(service=service_to_pb(service)))
        self._name_prefixes()

    def slice(self, key: str, of: str, *addresses: str) -> None:
        """An EndpointSlice of a service of its namespace."""
        namespace, _, name = key.partition("/")
        metadata = {"labels": {"kubernetes.io/service-name": of}}
        manifest = {"addressType": "IPv4", "metadata": metadata, "endpoints": [{"addresses": list(addresses)}]}
        part = endpoint_slice_to_pb(EndpointSlice(namespace, name, json.dumps(manifest)))
        self.happen(endpoint_slice_replaced=pb.EndpointSliceReplaced(endpoint_slice=part))
        self._name_prefixes()

    def _name_prefixes(self) -> None:
        services = Services(self.state)
        for cidr in sorted({cidr for each in self.state.policies.values() for cidr in cidrs_of(each, services)}):
            self.cidr(cidr)

    def set(self, name: str, value: str, node: str = "") -> None:
        setting = Setting(name, value, node)
        self.happen(setting_changed=pb.SettingChanged(setting=setting_to_pb(setting)))
