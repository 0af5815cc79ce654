"""Nodes: their addresses, and the pod CIDRs they bring or are given from the cluster pool."""

from kilim.controlplane.decide.capacity import check_ipcache
from kilim.controlplane.decide.command import NodeRegistered, RegisterNode
from kilim.controlplane.decide.draft import Draft
from kilim.controlplane.decide.node_identity import put_node
from kilim.controlplane.decide.refusal import Code, Refusal, invalid
from kilim.controlplane.decide.setting import NODE_PREFIX_LEN, cluster_pool
from kilim.model.address import Cidr, format_ip, parse_cidr, parse_ip
from kilim.model.invalid import Invalid
from kilim.model.labels import LabelPairs, sorted_pairs
from kilim.model.names import check_dns_subdomain, check_labels
from kilim.model.node_selector import HOSTNAME, LINUX, OS
from kilim.model.nouns import Node
from kilim.v1 import events_pb2 as pb


def decide_register_node(draft: Draft, command: RegisterNode) -> NodeRegistered:
    """The same again changes nothing; without pod CIDRs a node keeps those that it has."""
    name = command.name
    try:
        check_dns_subdomain(name, "name")
    except Invalid as error:
        raise invalid(f"node: {error.path}", error.rule) from error
    ip = _node_ip(draft, command)
    before = draft.state.nodes.get(name)
    if command.pod_cidrs:
        cidrs = _given_cidrs(command)
    elif before is not None and before.pod_cidrs:
        cidrs = tuple(parse_cidr(cidr) for cidr in before.pod_cidrs)
    else:
        cidrs = (_next_free(draft),)
    _check_cidrs(draft, name, ip, cidrs)
    node = Node(name, ip, tuple(str(cidr) for cidr in cidrs), _labels(command))
    if before is None:
        check_ipcache(draft, 1)
    elif before.pod_cidrs != node.pod_cidrs:
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


def _node_ip(draft: Draft, command: RegisterNode) -> int:
    try:
        ip = parse_ip(command.ip)
    except ValueError as error:
        raise invalid(f"node {command.name}: ip", str(error)) from error
    if not 0x01000000 <= ip < 0xE0000000 or ip >> 24 == 127:
        raise invalid(f"node {command.name}: ip", f"{command.ip} is not an address that other nodes can reach")
    other = draft.view.node_at.get(ip)
    if other is not None and other != command.name:
        raise Refusal(Code.CONFLICT, f"node {command.name}: ip: {command.ip} is the address of node {other}")
    return ip


def _given_cidrs(command: RegisterNode) -> tuple[Cidr, ...]:
    cidrs: list[Cidr] = []
    for number, text in enumerate(command.pod_cidrs):
        path = f"node {command.name}: pod_cidrs[{number}]"
        try:
            cidr = parse_cidr(text)
        except ValueError as error:
            raise invalid(path, str(error)) from error
        if str(cidr) != text:
            raise invalid(path, f"{text} has bits set behind its prefix, {cidr} is meant")
        if not 8 <= cidr.prefix_len <= 30:
            raise invalid(path, f"{text} must have a prefix length from 8 to 30")
        clash = next((other for other in cidrs if _overlap(cidr, other)), None)
        if clash is not None:
            raise invalid(path, f"{text} overlaps {clash} of the same node")
        cidrs.append(cidr)
    return tuple(cidrs)


def _check_cidrs(draft: Draft, name: str, ip: int, cidrs: tuple[Cidr, ...]) -> None:
    for cidr in cidrs:
        if cidr.contains_ip(ip):
            raise invalid(f"node {name}: pod_cidrs", f"{cidr} contains the node's own address {format_ip(ip)}")
        for other, theirs in draft.view.cidrs_of_node.items():
            clash = next((their for their in theirs if other != name and _overlap(cidr, their)), None)
            if clash is not None:
                raise Refusal(Code.CONFLICT, f"node {name}: pod_cidrs: {cidr} overlaps {clash} of node {other}")


def _check_endpoints_stay(draft: Draft, name: str, cidrs: tuple[Cidr, ...]) -> None:
    for key in draft.view.endpoints_on.get(name, {}).values():
        ip = draft.state.endpoints[key].ip
        if not any(cidr.contains_ip(ip) for cidr in cidrs):
            raise Refusal(
                Code.CONFLICT, f"node {name}: pod_cidrs: endpoint {key} has {format_ip(ip)}, which is in none of them"
            )


def _next_free(draft: Draft) -> Cidr:
    """The first /24 of the cluster pool that overlaps no node's pod CIDRs and holds no node's address."""
    pool = cluster_pool(draft.view)
    size = 1 << (32 - NODE_PREFIX_LEN)
    taken = sorted(
        [
            (cidr.ip, cidr.ip + (1 << (32 - cidr.prefix_len)))
            for each in draft.view.cidrs_of_node.values()
            for cidr in each
        ]
        + [(ip, ip + 1) for ip in draft.view.node_at]
    )
    candidate = pool.ip
    for start, end in taken:
        if start >= candidate + size:
            break
        if end > candidate:
            candidate = -(-end // size) * size
    if candidate + size > pool.ip + (1 << (32 - pool.prefix_len)):
        raise Refusal(Code.EXHAUSTED, f"cluster-pool-ipv4-cidr {pool} has no free /{NODE_PREFIX_LEN} left")
    return Cidr(candidate, NODE_PREFIX_LEN)


def _overlap(one: Cidr, other: Cidr) -> bool:
    return one.contains(other) or other.contains(one)
