"""Endpoints: who has which address, and which identity its labels give it.

Where the labels, the service account and the named ports of an endpoint come from:
 1. the Pod object of that name, if the state has one;
 2. else what the registration brought (no named ports then).
The health endpoint of a node has none of them, whatever there is: its identity is the reserved one.
"""

from dataclasses import replace

from kilim.controlplane.decide.addresses import field_of, parse_addresses
from kilim.controlplane.decide.capacity import check_endpoints, check_ipcache
from kilim.controlplane.decide.command import (
    Accepted,
    ConfigureEndpoint,
    EndpointRegistered,
    RegisterEndpoint,
    RemoveEndpoint,
)
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.identity import identity_of_endpoint
from kilim.controlplane.decide.pool import family_of
from kilim.controlplane.decide.refusal import Code, Refusal, invalid
from kilim.model.address import format_ip
from kilim.model.identity import HEALTH, membership_label
from kilim.model.invalid import Invalid
from kilim.model.labels import IPV6_ONLY, NAMESPACE_NAME_LABEL, LabelPairs, security_labels
from kilim.model.names import check_dns_label, check_dns_subdomain, check_labels
from kilim.model.nouns import HEALTH_NAMESPACE, Endpoint, endpoint_to_pb
from kilim.model.state import State, endpoint_key
from kilim.v1 import events_pb2 as pb


def namespace_labels(state: State, name: str) -> LabelPairs:
    """A namespace that nobody has applied has its name as its only label, as in Kubernetes."""
    namespace = state.namespaces.get(name)
    return with_name_label(name, namespace.labels if namespace else ())


def with_name_label(name: str, labels: LabelPairs) -> LabelPairs:
    return tuple(sorted({**dict(labels), NAMESPACE_NAME_LABEL: name}.items()))


def decide_register_endpoint(draft: Draft, command: RegisterEndpoint) -> EndpointRegistered:
    """The same again changes nothing; a new container of the same pod takes the old one's place and options."""
    draft.cause = f"endpoint {command.namespace}/{command.name} container {command.container_id}"
    key = endpoint_key(command.namespace, command.name)
    ip, ipv6 = _checked_ips(draft, command, key)
    before = draft.state.endpoints.get(key)
    addresses = (ip != 0) + (ipv6 != 0)
    had = len(before.ips) if before is not None else 0
    had_here = had if before is not None and before.node == command.node else 0
    if addresses > had:
        check_ipcache(draft, addresses - had)
    if addresses > had_here:
        check_endpoints(draft, command.node, addresses - had_here)
    wanted = Endpoint(
        namespace=command.namespace,
        name=command.name,
        node=command.node,
        endpoint_id=command.endpoint_id,
        ip=ip,
        identity=HEALTH if command.health else 0,
        container_id=command.container_id,
        labels=tuple(sorted(command.labels)),
        service_account=command.service_account,
        policy_audit_mode=before is not None and before.node == command.node and before.policy_audit_mode,
        ipv6=ipv6,
    )
    return EndpointRegistered(put_endpoint(draft, wanted, namespace_labels(draft.state, command.namespace)))


def decide_remove_endpoint(draft: Draft, command: RemoveEndpoint) -> Accepted:
    """A removal that comes after the pod was created anew finds another container and does nothing."""
    draft.cause = command.cause or f"endpoint {command.namespace}/{command.name} container {command.container_id}"
    endpoint = draft.state.endpoints.get(endpoint_key(command.namespace, command.name))
    if endpoint is None or (command.node and endpoint.node != command.node):
        return Accepted()
    if command.container_id in ("", endpoint.container_id):
        draft.emit(pb.EndpointRemoved(namespace=endpoint.namespace, name=endpoint.name))
    return Accepted()


def decide_configure_endpoint(draft: Draft, command: ConfigureEndpoint) -> Accepted:
    key = endpoint_key(command.namespace, command.name)
    draft.cause = f"options of endpoint {key}"
    endpoint = draft.state.endpoints.get(key)
    if endpoint is None:
        raise Refusal(Code.NOT_FOUND, f"endpoint {key}: not found")
    wanted = replace(endpoint, policy_audit_mode=command.policy_audit_mode)
    if wanted != endpoint:
        draft.emit(pb.EndpointUpdated(endpoint=endpoint_to_pb(wanted)))
    return Accepted()


def put_endpoint(draft: Draft, wanted: Endpoint, labels_of_namespace: LabelPairs) -> int:
    """Complete `wanted` from its Pod object and with its identity, and emit what is new about it."""
    return _put(draft, wanted, draft.state.endpoints.get(_key_of(wanted)), labels_of_namespace)


def relabel_endpoint(draft: Draft, before: Endpoint, labels_of_namespace: LabelPairs) -> int:
    """The same for one as it is."""
    return _put(draft, before, before, labels_of_namespace)


def _key_of(endpoint: Endpoint) -> str:
    return endpoint_key(endpoint.namespace, endpoint.name)


def _put(draft: Draft, wanted: Endpoint, before: Endpoint | None, labels_of_namespace: LabelPairs) -> int:
    draft.step()
    if wanted.identity != HEALTH:
        wanted = _with_identity(draft, wanted, before, labels_of_namespace)
    if before is None:
        draft.emit(pb.EndpointAdded(endpoint=endpoint_to_pb(wanted)))
    elif before != wanted:
        draft.emit(pb.EndpointUpdated(endpoint=endpoint_to_pb(wanted)))
    return wanted.identity


def _with_identity(
    draft: Draft, wanted: Endpoint, before: Endpoint | None, labels_of_namespace: LabelPairs
) -> Endpoint:
    pod = draft.state.pods.get(_key_of(wanted))
    if pod is not None:
        wanted = replace(
            wanted,
            labels=pod.labels,
            service_account=pod.service_account,
            named_ports=tuple(sorted(pod.named_ports)),
        )
    labels = security_labels(
        wanted.labels, wanted.namespace, labels_of_namespace, wanted.service_account, draft.view.defaults.cluster
    )
    of_addresses = _labels_of_addresses(draft, wanted)
    if of_addresses:
        labels = tuple(sorted((*labels, *of_addresses)))
    identity = identity_of_endpoint(draft, labels, wanted.named_ports, before)
    return wanted if identity == wanted.identity else replace(wanted, identity=identity)


def _labels_of_addresses(draft: Draft, endpoint: Endpoint) -> list[str]:
    """Labels for the prefixes that policies name and that contain one of the addresses, and one where IPv4 is not among
    them, for 0.0.0.0/0."""
    families = [IPV6_ONLY] if endpoint.ipv6 and not endpoint.ip else []
    named, to_come = draft.view.pod_prefixes, draft.prefixes_to_come
    if not named and not to_come:
        return families
    inside = {each for ip in endpoint.ips for table in (named, to_come) for each in table.containing(ip)}
    return [*families, *(membership_label(cidr) for cidr in inside)]


def _checked_ips(draft: Draft, command: RegisterEndpoint, key: str) -> tuple[int, int]:
    """(IPv4, IPv6), 0: none. Rules in order: names, node, number, addresses, and whose they are."""
    where = f"endpoint {key}"
    _check_names(command, where)
    cidrs = draft.view.cidrs_of_node.get(command.node)
    if cidrs is None:
        raise Refusal(Code.NOT_FOUND, f"{where}: node: no node {command.node!r} is registered")
    if not 1 <= command.endpoint_id <= 65_535:
        raise invalid(f"{where}: endpoint_id", f"{command.endpoint_id} must be from 1 to 65535")
    ips = parse_addresses(where, command.ip, command.ipv6)
    for ip in filter(None, ips):
        path = f"{where}: {field_of(ip)}"
        if not any(cidr.contains_ip(ip) for cidr in cidrs):
            of_family = [str(cidr) for cidr in cidrs if family_of(cidr.ip) is family_of(ip)]
            listed = ", ".join(of_family) or f"it has none of {family_of(ip).name}"
            raise invalid(path, f"{format_ip(ip)} must be in a pod CIDR of node {command.node} ({listed})")
        holder = draft.view.endpoint_at.get(ip)
        if holder is not None and holder != key:
            raise Refusal(Code.CONFLICT, f"{path}: {format_ip(ip)} belongs to endpoint {holder}")
    holder = draft.view.endpoints_on.get(command.node, {}).get(command.endpoint_id)
    if holder is not None and holder != key:
        raise Refusal(
            Code.CONFLICT, f"{where}: endpoint_id: {command.endpoint_id} belongs to {holder} on node {command.node}"
        )
    return ips


def _check_names(command: RegisterEndpoint, where: str) -> None:
    try:
        check_dns_label(command.namespace, "namespace")
        check_dns_subdomain(command.name, "name")
        if command.service_account:
            check_dns_subdomain(command.service_account, "service_account")
        check_labels(dict(command.labels), "labels")
    except Invalid as error:
        raise invalid(f"{where}: {error.path}", error.rule) from error
    if command.health and (command.namespace, command.name) != (HEALTH_NAMESPACE, command.node):
        raise invalid(f"{where}: health", f"must be {HEALTH_NAMESPACE}/{command.node}, the health endpoint of its node")
    if not command.health and command.namespace == HEALTH_NAMESPACE:
        raise invalid(f"{where}: namespace", f"{HEALTH_NAMESPACE} is for the health endpoints of nodes")
    if command.health and (command.labels or command.service_account):
        raise invalid(f"{where}: health", "a health endpoint has neither labels nor a service account")
