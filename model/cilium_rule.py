"""One rule of a CiliumNetworkPolicy's sections: who (layer 3) and what (layer 4), both of which must hold.

A visitor would get wrong: an empty rule `{}` selects nobody, unlike in a NetworkPolicy; it is there to isolate.

What a rule selects, first that holds:
1. Nobody, if one of its lists of peers is there but empty, or if it has neither peers nor ports nor types. Empty lists
   of groups, services and FQDNs count as absent.
2. Its peers; of one list only, as two in a rule may not be combined.
3. Without a list of peers: anybody at all, on its ports.
CIDRs select prefixes outside the cluster, never endpoints, and nodes only as the policy says (`cidrs_include_nodes`).
The world is that of both families: all that is outside has its label, what is of IPv6 another one, too. Nodes are other
nodes than the own one, which is the entity `host`.
Services, and the API servers among the entities, are references: what they come to is not said by the manifest.
"""

from collections.abc import Callable
from typing import NamedTuple

from kilim.model.address import is_ipv6
from kilim.model.cidr_group import GROUP_NAME, read_prefix
from kilim.model.cilium_layer7 import NOT_YET, check_dns_name
from kilim.model.cilium_ports import parse_icmps, parse_to_ports
from kilim.model.cilium_selector import parse_node_selector, parse_object_selector, parse_peer_selector
from kilim.model.fields import Object, child, read_list, read_object, read_text, read_text_map
from kilim.model.identity import RESERVED_NAMES, WORLD_IPV6_LABEL, WORLD_LABEL
from kilim.model.invalid import Invalid
from kilim.model.labels import CLUSTER
from kilim.model.names import check_dns_label, check_dns_subdomain, invalid_value, unsupported_value
from kilim.model.rules import CidrPeer, GroupPeer, Peer, Port, unique
from kilim.model.selector import DOES_NOT_EXIST, EXISTS, IN, Requirement, Selector, parse_selector, selector_of
from kilim.model.service_reference import ApiServers, ServiceReference, ServicesLabelled, ServicesNamed

NOT_SUPPORTED = "not supported"
_AUTHENTICATION = ("disabled", "required", "test-always-fail")
_EVERYBODY = "all"
_WITH_API_SERVERS = ("kube-apiserver", "cluster")
_API_SERVER_SELECTORS = (
    Selector((Requirement("reserved:kube-apiserver", EXISTS),)),
    Selector((Requirement("reserved:kube-apiserver", IN, ("",)),)),
)
_ABSENT_WHERE_EMPTY = ("Groups", "Services", "FQDNs")
_OF_THE_CLUSTER = [name for name in RESERVED_NAMES.values() if not name.startswith("world")]


def _with(*labels: str) -> tuple[Selector, ...]:
    """One for each."""
    return tuple(selector_of([Requirement(label, EXISTS)]) for label in labels)


_ENTITIES: dict[str, tuple[Selector, ...]] = {
    "none": (),
    "world": _with(WORLD_LABEL),
    "world-ipv4": (selector_of([Requirement(WORLD_LABEL, EXISTS), Requirement(WORLD_IPV6_LABEL, DOES_NOT_EXIST)]),),
    "world-ipv6": _with(WORLD_IPV6_LABEL),
    "cluster": _with(CLUSTER, *(f"reserved:{name}" for name in _OF_THE_CLUSTER)),
    **{name: _with(f"reserved:{name}") for name in _OF_THE_CLUSTER},
}

_Peers = tuple[Peer | ServiceReference, ...] | None  # None: anybody at all


class Matches(NamedTuple):
    """As in the inner form: None is any, () is nobody and nothing."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    services: tuple[ServiceReference, ...] = ()


class Context(NamedTuple):
    """`namespace` is empty in a clusterwide policy. What is right but not enforced goes to `refused`."""

    namespace: str
    refused: list[Invalid]
    nodes_in_cidrs: bool = False


def parse_cilium_rule(value: object, path: str, section: str, context: Context) -> Matches:
    """Raises `Invalid`."""
    side = "from" if section.startswith("ingress") else "to"
    fields = read_object(value, path, _known(section, side))
    found: dict[str, _Peers] = {}
    for name, parse in _PEERS.items():
        if side + name in fields and side + name in _known(section, side):
            items = read_list(fields[side + name], child(path, side + name))
            if items or name not in _ABSENT_WHERE_EMPTY:
                found[side + name] = parse(items, child(path, side + name), context)
    filled = [name for name in found if fields[name]]
    if len(filled) > 1:
        raise Invalid(child(path, filled[1]), f"Forbidden: may not be combined with `{filled[0]}` in one rule")
    _check_requires(fields, path, side, context)
    _check_authentication(fields, path, context.refused)
    ports = _parse_ports(fields, path, section, context.refused)
    if len(filled) < len(found) or (not found and ports is None):
        return Matches((), ports)
    return _matches(found[filled[0]] if filled else None, ports)


def _matches(found: _Peers, ports: tuple[Port, ...] | None) -> Matches:
    if found is None:
        return Matches(None, ports)
    peers = tuple(each for each in found if not isinstance(each, ServiceReference))
    return Matches(peers, ports, tuple(each for each in found if isinstance(each, ServiceReference)))


def _known(section: str, side: str) -> list[str]:
    names = ["Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Groups", "Requires"]
    names += ["Services"] if side == "to" else []
    names += ["FQDNs"] if section == "egress" else []
    others = ["toPorts", "icmps", *([] if section.endswith("Deny") else ["authentication"])]
    return [side + name for name in names] + others


def _parse_ports(fields: Object, path: str, section: str, refused: list[Invalid]) -> tuple[Port, ...] | None:
    ports = parse_to_ports(fields.get("toPorts"), child(path, "toPorts"), section, refused)
    types = parse_icmps(fields.get("icmps"), child(path, "icmps"))
    if ports is not None and types is not None:
        raise Invalid(child(path, "icmps"), "Forbidden: may not be combined with `toPorts` in one rule")
    return types if ports is None else ports


def _check_requires(fields: Object, path: str, side: str, context: Context) -> None:
    name = f"{side}Requires"
    items = read_list(fields.get(name), child(path, name))
    for number, item in enumerate(items):
        parse_peer_selector(item, f"{child(path, name)}[{number}]", context.namespace)
    if items:
        context.refused.append(Invalid(child(path, name), f"{NOT_SUPPORTED}: deprecated; write a policy that denies"))


def _check_authentication(fields: Object, path: str, refused: list[Invalid]) -> None:
    if "authentication" not in fields:
        return
    where = child(path, "authentication")
    inner = read_object(fields["authentication"], where, ("mode",))
    mode = read_text(inner.get("mode"), child(where, "mode"))
    if mode not in _AUTHENTICATION:
        raise unsupported_value(child(where, "mode"), mode, _AUTHENTICATION)
    if mode != "disabled":
        refused.append(Invalid(where, NOT_YET))


# --- lists of peers: items, their path -> what they select


def _endpoints(items: list[object], path: str, context: Context) -> _Peers:
    found = unique(parse_peer_selector(item, f"{path}[{i}]", context.namespace) for i, item in enumerate(items))
    return (*found, ApiServers()) if any(each in _API_SERVER_SELECTORS for each in found) else found


def _entities(items: list[object], path: str, _: Context) -> _Peers:
    names = [read_text(item, f"{path}[{i}]") for i, item in enumerate(items)]
    for number, name in enumerate(names):
        if name not in _ENTITIES and name != _EVERYBODY:
            raise unsupported_value(f"{path}[{number}]", name, (*_ENTITIES, _EVERYBODY))
    if _EVERYBODY in names:
        return None
    found = unique(selector for name in names for selector in _ENTITIES[name])
    return (*found, ApiServers()) if any(name in _WITH_API_SERVERS for name in names) else found


def _cidrs(items: list[object], path: str, context: Context) -> _Peers:
    found = (read_prefix(item, f"{path}[{i}]", bare=True) for i, item in enumerate(items))
    return unique(CidrPeer(cidr, (), nodes=context.nodes_in_cidrs) for cidr in found)


def _cidr_sets(items: list[object], path: str, context: Context) -> _Peers:
    return unique(_parse_cidr_set(item, f"{path}[{i}]", context) for i, item in enumerate(items))


def _parse_cidr_set(value: object, path: str, context: Context) -> Peer:
    fields = read_object(value, path, ("cidr", "cidrGroupRef", "cidrGroupSelector", "except"))
    if sum(name in fields for name in ("cidr", "cidrGroupRef", "cidrGroupSelector")) != 1:
        raise Invalid(path, "must have one of `cidr`, `cidrGroupRef` and `cidrGroupSelector`")
    block = read_prefix(fields["cidr"], child(path, "cidr")) if "cidr" in fields else None
    except_path = child(path, "except")
    excepts = set()
    for number, item in enumerate(read_list(fields.get("except"), except_path)):
        inner = read_prefix(item, f"{except_path}[{number}]")
        if block is not None and is_ipv6(inner.ip) != is_ipv6(block.ip):
            raise invalid_value(f"{except_path}[{number}]", item, "must be of the same family as `cidr`")
        if block is not None and not block.contains(inner):
            raise invalid_value(f"{except_path}[{number}]", item, "must be within `cidr`")
        excepts.add(inner)
    outside = tuple(sorted(excepts))
    if block is not None:
        return CidrPeer(block, outside, nodes=context.nodes_in_cidrs)
    if "cidrGroupSelector" in fields:
        return GroupPeer(parse_selector(fields["cidrGroupSelector"], child(path, "cidrGroupSelector")), outside)
    name = read_text(fields["cidrGroupRef"], child(path, "cidrGroupRef"))
    check_dns_subdomain(name, child(path, "cidrGroupRef"))
    return GroupPeer(Selector((Requirement(GROUP_NAME, IN, (name,)),)), outside)


def _nodes(items: list[object], path: str, _: Context) -> _Peers:
    return unique(peer for i, item in enumerate(items) for peer in parse_node_selector(item, f"{path}[{i}]"))


def _groups(items: list[object], path: str, context: Context) -> _Peers:
    for number, item in enumerate(items):
        aws_path = child(f"{path}[{number}]", "aws")
        known = ("labels", "securityGroupsIds", "securityGroupsNames", "region")
        aws = read_object(read_object(item, f"{path}[{number}]", ("aws",)).get("aws"), aws_path, known)
        read_text_map(aws.get("labels"), child(aws_path, "labels"))
        read_text(aws.get("region"), child(aws_path, "region"))
        for name in ("securityGroupsIds", "securityGroupsNames"):
            for index, text in enumerate(read_list(aws.get(name), child(aws_path, name))):
                read_text(text, f"{child(aws_path, name)}[{index}]")
    return _refuse(items, path, context, f"{NOT_SUPPORTED}: groups of a cloud are not known here; write CIDRs")


def _services(items: list[object], path: str, context: Context) -> _Peers:
    return unique(_parse_service(item, f"{path}[{i}]", context.nodes_in_cidrs) for i, item in enumerate(items))


def _parse_service(value: object, path: str, nodes: bool) -> ServiceReference:
    fields = read_object(value, path, ("k8sService", "k8sServiceSelector"))
    if len(fields) != 1:
        raise Invalid(path, "must have one of `k8sService` and `k8sServiceSelector`")
    if "k8sService" in fields:
        named, inner = child(path, "k8sService"), "serviceName"
        service = read_object(fields["k8sService"], named, (inner, "namespace"))
        name = read_text(service.get(inner), child(named, inner))
        check_dns_label(name, child(named, inner))
        return ServicesNamed(_read_namespace(service, named), name, nodes)
    chosen = child(path, "k8sServiceSelector")
    service = read_object(fields["k8sServiceSelector"], chosen, ("selector", "namespace"))
    if "selector" not in service:
        raise Invalid(child(chosen, "selector"), "Required value")
    labels = parse_object_selector(service["selector"], child(chosen, "selector"))
    return ServicesLabelled(_read_namespace(service, chosen), labels, nodes)


def _read_namespace(fields: Object, path: str) -> str:
    """Empty: all namespaces."""
    where = child(path, "namespace")
    namespace = read_text(fields.get("namespace"), where)
    if namespace:
        check_dns_label(namespace, where)
    return namespace


def _names(items: list[object], path: str, context: Context) -> _Peers:
    for number, item in enumerate(items):
        check_dns_name(item, f"{path}[{number}]")
    return _refuse(items, path, context, NOT_YET)


def _refuse(items: list[object], path: str, context: Context, rule: str) -> _Peers:
    if items:
        context.refused.append(Invalid(path, rule))
    return ()


_PEERS: dict[str, Callable[[list[object], str, Context], _Peers]] = {
    "Endpoints": _endpoints,
    "Entities": _entities,
    "CIDR": _cidrs,
    "CIDRSet": _cidr_sets,
    "Nodes": _nodes,
    "Groups": _groups,
    "Services": _services,
    "FQDNs": _names,
}
