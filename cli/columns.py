"""Which columns a table of a kind has. A cell that an object does not have shows as <none>."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from kilim.cli.kinds import Kind
from kilim.model.service import SERVICE_NAME_LABEL

Cell = Callable[[dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Column:
    header: str
    cell: Cell
    wide: bool = False


def at(path: str) -> Cell:
    """The value at a dotted path."""

    def read(item: dict[str, Any]) -> object:
        value: Any = item
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    return read


def selector_text(selector: dict[str, Any] | None) -> str:
    """A label selector in kubectl's short form; the empty one selects everything."""
    selector = selector or {}
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for rule in selector.get("matchExpressions") or []:
        key, operator = rule.get("key"), rule.get("operator")
        values = ",".join(rule.get("values") or [])
        match operator:
            case "In" | "NotIn":
                parts.append(f"{key} {operator.lower()} ({values})")
            case "Exists":
                parts.append(str(key))
            case "DoesNotExist":
                parts.append(f"!{key}")
    return ",".join(parts) or "<none>"


def policy_types(item: dict[str, Any]) -> list[str]:
    """As the API server fills them in where the policy leaves them out."""
    spec = item.get("spec") or {}
    return list(spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])])


def _ports(item: dict[str, Any]) -> list[str]:
    containers = (item.get("spec") or {}).get("containers") or []
    ports = [port for container in containers for port in container.get("ports") or []]
    return [f"{port.get('name') or port.get('containerPort')}/{port.get('protocol', 'TCP')}" for port in ports]


def _external_ips(item: dict[str, Any]) -> object:
    spec = item.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return spec.get("externalName")
    return spec.get("externalIPs") or ("<pending>" if spec.get("type") == "LoadBalancer" else None)


def _service_ports(item: dict[str, Any]) -> list[str]:
    ports = (item.get("spec") or {}).get("ports") or []
    return [f"{port['port']}{_node_port(port)}/{port.get('protocol') or 'TCP'}" for port in ports]


def _node_port(port: dict[str, Any]) -> str:
    return f":{port['nodePort']}" if port.get("nodePort") else ""


def _endpoint_addresses(item: dict[str, Any]) -> list[str]:
    return [address for each in item.get("endpoints") or [] for address in each["addresses"]]


def _ips(item: dict[str, Any]) -> list[str]:
    """Of a node or an endpoint, which may have one of each family."""
    spec = item.get("spec") or {}
    return [spec[name] for name in ("ip", "ipv6") if spec.get(name)]


def _identity_labels(item: dict[str, Any]) -> list[str]:
    return list((item.get("spec") or {}).get("labels") or [])


def cilium_specs(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A cilium.io policy has one, or several, or both."""
    return [*([item["spec"]] if item.get("spec") else []), *(item.get("specs") or [])]


def default_deny(spec: dict[str, Any]) -> list[str]:
    """The directions in which a spec isolates what it selects."""
    wanted = spec.get("enableDefaultDeny") or {}
    ruled = {way: bool(spec.get(way) or spec.get(f"{way}Deny")) for way in ("ingress", "egress")}
    return [way.capitalize() for way, by_rules in ruled.items() if wanted.get(way, by_rules)]


def _cilium_rules(way: str, item: dict[str, Any]) -> int:
    return sum(len(spec.get(way) or []) for spec in cilium_specs(item))


_CILIUM_POLICY = (
    Column(
        "ENDPOINT-SELECTOR",
        lambda item: "; ".join(selector_text(spec.get("endpointSelector")) for spec in cilium_specs(item)),
    ),
    Column("DEFAULT-DENY", lambda item: sorted({way for spec in cilium_specs(item) for way in default_deny(spec)})),
    *(
        Column(header, partial(_cilium_rules, section), wide=True)
        for header, section in (
            ("INGRESS RULES", "ingress"),
            ("INGRESS DENY", "ingressDeny"),
            ("EGRESS RULES", "egress"),
            ("EGRESS DENY", "egressDeny"),
        )
    ),
)
CILIUM_OWN = "k8s:io.cilium.k8s."  # of the namespace, the service account and the cluster: long, and much alike
NAME = Column("NAME", at("metadata.name"))
NAMESPACE = Column("NAMESPACE", at("metadata.namespace"))
LABELS = Column("LABELS", at("metadata.labels"))
OF_KIND: dict[str, tuple[Column, ...]] = {
    "NetworkPolicy": (
        Column("POD-SELECTOR", lambda item: selector_text(at("spec.podSelector")(item))),  # type: ignore[arg-type]
        Column("TYPES", policy_types),
        Column("INGRESS RULES", lambda item: len(at("spec.ingress")(item) or []), wide=True),  # type: ignore[arg-type]
        Column("EGRESS RULES", lambda item: len(at("spec.egress")(item) or []), wide=True),  # type: ignore[arg-type]
    ),
    "ClusterNetworkPolicy": (
        Column("TIER", at("spec.tier")),
        Column("PRIORITY", at("spec.priority")),
        Column("INGRESS RULES", lambda item: len(at("spec.ingress")(item) or []), wide=True),  # type: ignore[arg-type]
        Column("EGRESS RULES", lambda item: len(at("spec.egress")(item) or []), wide=True),  # type: ignore[arg-type]
    ),
    "CiliumNetworkPolicy": _CILIUM_POLICY,
    "CiliumClusterwideNetworkPolicy": _CILIUM_POLICY,
    "CiliumCIDRGroup": (LABELS, Column("CIDRS", at("spec.externalCIDRs"))),
    "Service": (
        Column("TYPE", lambda item: at("spec.type")(item) or "ClusterIP"),
        Column("CLUSTER-IP", at("spec.clusterIP")),
        Column("EXTERNAL-IP", _external_ips),
        Column("PORT(S)", _service_ports),
        Column("SELECTOR", at("spec.selector"), wide=True),
    ),
    "EndpointSlice": (
        Column("ADDRESSTYPE", at("addressType")),
        Column("PORTS", lambda item: [port.get("port") or "*" for port in item.get("ports") or []]),
        Column("ENDPOINTS", _endpoint_addresses),
        Column("SERVICE", lambda item: (at("metadata.labels")(item) or {}).get(SERVICE_NAME_LABEL), wide=True),  # type: ignore[attr-defined]
    ),
    "Namespace": (LABELS,),
    "Pod": (
        LABELS,
        Column("SERVICE ACCOUNT", at("spec.serviceAccountName"), wide=True),
        Column("PORTS", _ports, wide=True),
    ),
    "Node": (
        Column("IP", _ips),
        Column("POD CIDRS", at("spec.podCIDRs")),
        Column("LABELS", at("metadata.labels"), wide=True),
    ),
    "Endpoint": (
        Column("NODE", at("spec.node")),
        Column("ID", at("spec.endpointId")),
        Column("IP", _ips),
        Column("IDENTITY", at("spec.identity")),
        Column("LABELS", at("metadata.labels")),
        Column("CONTAINER", at("spec.containerId"), wide=True),
        Column("SERVICE ACCOUNT", at("spec.serviceAccount"), wide=True),
        Column("AUDIT", lambda item: "on" if at("status.policyAuditMode")(item) else None, wide=True),
    ),
    "Setting": (Column("VALUE", at("spec.value")), Column("NODE", at("spec.node"))),
    "Identity": (
        Column("ENDPOINTS", at("status.endpoints")),
        Column("LABELS", lambda item: [label for label in _identity_labels(item) if CILIUM_OWN not in label]),
        Column(
            "OTHER LABELS", lambda item: [label for label in _identity_labels(item) if CILIUM_OWN in label], wide=True
        ),
    ),
}


def columns(kind: Kind, *, wide: bool, with_namespace: bool) -> list[Column]:
    own = [column for column in OF_KIND[kind.name] if wide or not column.wide]
    return [*([NAMESPACE] if with_namespace else []), NAME, *own]
