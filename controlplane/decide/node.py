"""Nodes: their addresses, and the pod CIDRs they bring or are given from the cluster pool."""

from kilim.controlplane.decide.addresses import field_of, parse_addresses
from kilim.controlplane.decide.capacity import check_ipcache
from kilim.controlplane.decide.command import NodeRegistered, RegisterNode
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.node_identity import put_node
from kilim.controlplane.decide.pool import POOL_SETTINGS, Family, family_of, is_for_pods, next_free
from kilim.controlplane.decide.refusal import Code, Refusal, invalid
from kilim.controlplane.decide.setting import cluster_pool
from kilim.model.address import Cidr, format_ip, host_length, parse_cidr, parse_ip
from kilim.model.invalid import Invalid
from kilim.model.labels import LabelPairs, sorted_pairs
from kilim.model.names import check_dns_subdomain, check_labels
from kilim.model.node_selector import HOSTNAME, LINUX, OS
from kilim.model.nouns import Node
from kilim.v1 import events_pb2 as pb

# This host, itself, one link, many at once.
_UNREACHABLE = tuple(
    parse_cidr(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")
)


def decide_register_node(draft: Draft, command: RegisterNode) -> NodeRegistered:
    """The same again changes nothing; without pod CIDRs of a family a node keeps those that it has."""
    name = command.name
    try:
        check_dns_subdomain(name, "name")
    except Invalid as error:
        raise invalid(f"node: {error.path}", error.rule) from error
    ip, ipv6 = _node_ips(draft, command)
    ips = tuple(each for each in (ip, ipv6) if each)
    before = draft.state.nodes.get(name)
    cidrs = _pod_cidrs(draft, command, ips)
    _check_cidrs(draft, name, ips, cidrs)
    _check_new(draft, before, name, ips, cidrs)
    node = Node(name, ip, tuple(str(cidr) for cidr in cidrs), _labels(command), ipv6=ipv6)
    more = len(ips) - (len(before.ips) if before is not None else 0)
    if more > 0:
        check_ipcache(draft, more)
    if before is not None and before.pod_cidrs != node.pod_cidrs:
        _check_endpoints_stay(draft, name, cidrs)
    put_node(draft, node)
    return NodeRegistered(node.pod_cidrs)


def decide_remove_node(draft: Draft, name: str) -> bool:
    """With its endpoints, which go first (I8). Whether there was such a node."""
    if name not in draft.state.nodes:
        return False
    for key in sorted(draft.view.endpoints_on.get(name, {}).values()):
        endpoint = draft.state.endpoints[key]
        draft.emit(pb.EndpointRemoved(namespace=endpoint.namespace, name=endpoint.name))
    draft.emit(pb.NodeLeft(name=name))
    return True


def _labels(command: RegisterNode) -> LabelPairs:
    """Those that are given, and two that every node has in Kubernetes."""
    given = dict(command.labels)
    try:
        check_labels(given, "labels")
    except Invalid as error:
        raise invalid(f"node {command.name}: {error.path}", error.rule) from error
    if given.get(OS, LINUX) != LINUX:
        raise invalid(f"node {command.name}: labels", f"{OS} must be {LINUX}: agents run on nothing else")
    return sorted_pairs({HOSTNAME: command.name, OS: LINUX, **given})


def _node_ips(draft: Draft, command: RegisterNode) -> tuple[int, int]:
    """(IPv4, IPv6); 0: none."""
    where = f"node {command.name}"
    ips = parse_addresses(where, command.ip, command.ipv6)
    for ip in filter(None, ips):
        path, shown = f"{where}: {field_of(ip)}", format_ip(ip)
        if any(cidr.contains_ip(ip) for cidr in _UNREACHABLE):
            raise invalid(path, f"{shown} is not an address that other nodes can reach")
        other = draft.view.node_at.get(ip)
        if other is not None and other != command.name:
            raise Refusal(Code.CONFLICT, f"{path}: {shown} is the address of node {other}")
    return ips


def _pod_cidrs(draft: Draft, command: RegisterNode, ips: tuple[int, ...]) -> tuple[Cidr, ...]:
    """Of each family that the node has: those given, else those that it has had, else one from the pool."""
    before = draft.view.cidrs_of_node.get(command.name, ())
    families = [family_of(ip) for ip in ips]
    cidrs = _given_cidrs(command, families)
    for family in families:
        if not any(family_of(cidr.ip) is family for cidr in cidrs):
            kept = [cidr for cidr in before if family_of(cidr.ip) is family]
            cidrs += kept or [_next_free(draft, family, ips)]
    return tuple(cidrs)


def _given_cidrs(command: RegisterNode, families: list[Family]) -> list[Cidr]:
    cidrs: list[Cidr] = []
    for number, text in enumerate(command.pod_cidrs):
        path = f"node {command.name}: pod_cidrs[{number}]"
        cidr = _given_cidr(path, text)
        family = family_of(cidr.ip)
        if family not in families:
            raise invalid(path, f"{text} is an {family.name} CIDR, and the node has no {family.name} address")
        if not family.least <= cidr.prefix_len <= family.most:
            raise invalid(path, f"{text} must have a prefix length from {family.least} to {family.most}")
        clash = next((other for other in cidrs if _overlap(cidr, other)), None)
        if clash is not None:
            raise invalid(path, f"{text} overlaps {clash} of the same node")
        if not is_for_pods(cidr):
            raise invalid(path, f"{text} has addresses that no pod can have")
        cidrs.append(cidr)
    return cidrs


def _given_cidr(path: str, text: str) -> Cidr:
    try:
        cidr = parse_cidr(text)
    except ValueError as error:
        raise invalid(path, str(error)) from error
    if parse_ip(text.partition("/")[0]) != cidr.ip:
        raise invalid(path, f"{text} has bits set behind its prefix, {cidr} is meant")
    return cidr


def _check_cidrs(draft: Draft, name: str, ips: tuple[int, ...], cidrs: tuple[Cidr, ...]) -> None:
    for cidr in cidrs:
        own = next((ip for ip in ips if cidr.contains_ip(ip)), None)
        if own is not None:
            raise invalid(f"node {name}: pod_cidrs", f"{cidr} contains the node's own address {format_ip(own)}")
        for other, theirs in draft.view.cidrs_of_node.items():
            clash = next((their for their in theirs if other != name and _overlap(cidr, their)), None)
            if clash is not None:
                raise Refusal(Code.CONFLICT, f"node {name}: pod_cidrs: {cidr} overlaps {clash} of node {other}")


def _check_new(draft: Draft, before: Node | None, name: str, ips: tuple[int, ...], cidrs: tuple[Cidr, ...]) -> None:
    """Pods of one node must not have addresses of another. What the log has of this node already may stay."""
    view = draft.view
    for ip in ips:
        for other, theirs in view.cidrs_of_node.items() if before is None or ip not in before.ips else ():
            clash = next((their for their in theirs if other != name and their.contains_ip(ip)), None)
            if clash is not None:
                rule = f"{format_ip(ip)} is in {clash}, a pod CIDR of node {other}"
                raise Refusal(Code.CONFLICT, f"node {name}: {field_of(ip)}: {rule}")
    for cidr in cidrs:
        if cidr in view.cidrs_of_node.get(name, ()):
            continue
        inside = min((ip for ip, other in view.node_at.items() if other != name and cidr.contains_ip(ip)), default=0)
        if inside:
            rule = f"{cidr} contains {format_ip(inside)}, the address of node {view.node_at[inside]}"
            raise Refusal(Code.CONFLICT, f"node {name}: pod_cidrs: {rule}")


def _check_endpoints_stay(draft: Draft, name: str, cidrs: tuple[Cidr, ...]) -> None:
    for key in draft.view.endpoints_on.get(name, {}).values():
        for ip in draft.state.endpoints[key].ips:
            if not any(cidr.contains_ip(ip) for cidr in cidrs):
                raise Refusal(
                    Code.CONFLICT,
                    f"node {name}: pod_cidrs: endpoint {key} has {format_ip(ip)}, which is in none of them",
                )


def _next_free(draft: Draft, family: Family, own: tuple[int, ...]) -> Cidr:
    """The first part of the cluster pool that overlaps no node's pod CIDRs and holds no node's address."""
    pool = cluster_pool(draft.view, family)
    taken = [cidr for each in draft.view.cidrs_of_node.values() for cidr in each]
    cidr = next_free(pool, taken + [Cidr(ip, host_length(ip)) for ip in (*draft.view.node_at, *own)])
    if cidr is None:
        name = POOL_SETTINGS[family].cidr
        raise Refusal(Code.EXHAUSTED, f"{name} {pool.cidr} has no free /{pool.mask_size} left")
    return cidr


def _overlap(one: Cidr, other: Cidr) -> bool:
    return one.contains(other) or other.contains(one)
