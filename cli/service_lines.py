"""A Service and an EndpointSlice in words, for `kilim describe`."""

from collections.abc import Iterator
from typing import Any

_VALUE_COLUMN = 14
_CONDITIONS = ("ready", "serving", "terminating")
_PLAIN = (
    ("Families", "ipFamilies"),
    ("External IPs", "externalIPs"),
    ("Name outside", "externalName"),
    ("Affinity", "sessionAffinity"),
)


def service_lines(item: dict[str, Any]) -> Iterator[str]:
    spec = item.get("spec") or {}
    selector = ",".join(f"{key}={value}" for key, value in sorted((spec.get("selector") or {}).items()))
    yield _pair("Selector", selector or "<none>")
    yield _pair("Type", spec.get("type") or "ClusterIP")
    if spec.get("clusterIP"):
        yield _pair("Cluster IPs", spec.get("clusterIPs") or [spec["clusterIP"]])
    yield from (_pair(title, spec[field]) for title, field in _PLAIN if spec.get(field))
    for port in spec.get("ports") or []:
        node_port = f", node port {port['nodePort']}" if port.get("nodePort") else ""
        yield _pair("Port", f"{_port(port)} to {port.get('targetPort') or port['port']}{node_port}")


def endpoint_slice_lines(item: dict[str, Any]) -> Iterator[str]:
    yield _pair("AddressType", item.get("addressType"))
    yield from (_pair("Port", _port(port)) for port in item.get("ports") or [])
    yield "Endpoints:" if item.get("endpoints") else _pair("Endpoints", "<none>")
    for each in item.get("endpoints") or []:
        said = each.get("conditions") or {}
        conditions = [name for name in _CONDITIONS if said.get(name)] or (["not ready"] if said else ["ready"])
        target = each.get("targetRef") or {}
        whose = f", {target.get('kind')} {target.get('name')}" if target else ""
        node = f" on {each['nodeName']}" if each.get("nodeName") else ""
        yield f"  {', '.join(each['addresses'])} ({', '.join(conditions)}){node}{whose}"


def _port(port: dict[str, Any]) -> str:
    name = f"{port['name']} " if port.get("name") else ""
    return f"{name}{port.get('port') or '<any>'}/{port.get('protocol') or 'TCP'}"


def _pair(title: str, value: Any) -> str:
    return f"{title + ':':<{_VALUE_COLUMN}}{', '.join(value) if isinstance(value, list) else value}"
