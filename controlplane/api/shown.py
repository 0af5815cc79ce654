"""The nouns of the state as JSON objects: Kubernetes kinds as Kubernetes writes them, ours likewise.

Easy to get wrong: what is listed is sorted by key, so that two replicas at the same seq list the same bytes.
"""

import json
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kilim.controlplane.decide.policy import POLICY_KINDS
from kilim.controlplane.decide.refusal import Code, Refusal
from kilim.model.address import format_ip
from kilim.model.cidr_group import CIDR_GROUP
from kilim.model.identity import RESERVED, Identity, is_of_pods
from kilim.model.nouns import Endpoint, Node, Setting
from kilim.model.protocols import PROTOCOL_NAMES
from kilim.model.resource import manifest_of
from kilim.model.service import ENDPOINT_SLICE, SERVICE
from kilim.model.settings import audits
from kilim.model.state import State, endpoint_key, policy_key
from kilim.v1 import controlplane_pb2 as api

API_VERSION = "kilim.io/v1"
_KEPT_AS_POLICIES = (*POLICY_KINDS, CIDR_GROUP)


def show(state: State, kind: str, namespace: str, name: str) -> api.Resource | None:
    """One object; None where there is none. Raises Refusal for an unknown kind."""
    table = _table(state, kind)
    key: object = name
    if kind == "Identity":
        key = int(name) if name.isascii() and name.isdigit() else -1
    elif kind in ("Pod", "Endpoint", SERVICE, ENDPOINT_SLICE):
        key = endpoint_key(namespace, name)
    elif kind in _KEPT_AS_POLICIES:
        key = policy_key(kind, namespace, name)
    noun = table.get(key)
    return None if noun is None else _resource(state, kind, noun)


def show_all(state: State, kind: str, namespace: str) -> Iterator[api.Resource]:
    """Those of a namespace, of all where it is empty."""
    table = _table(state, kind)
    for key in sorted(table):
        noun = table[key]
        if getattr(noun, "kind", kind) == kind and namespace in ("", getattr(noun, "namespace", namespace)):
            yield _resource(state, kind, noun)


def _table(state: State, kind: str) -> Mapping[Any, Any]:
    """What `kind` is looked up in. A setting that is at its default is none."""
    match kind:
        case "Identity":
            return ChainMap(state.identities, RESERVED)  # type: ignore[arg-type]  # both are only read
        case "Setting":
            return {key: noun for key, noun in state.settings.items() if noun.value}
    tables: dict[str, Mapping[Any, Any]] = {
        **dict.fromkeys(_KEPT_AS_POLICIES, state.policies),
        "Namespace": state.namespaces,
        "Pod": state.pods,
        SERVICE: state.services,
        ENDPOINT_SLICE: state.endpoint_slices,
        "Node": state.nodes,
        "Endpoint": state.endpoints,
    }
    if kind not in tables:
        raise Refusal(Code.INVALID, f"kind: {kind!r} must be one of {', '.join(sorted(_SHOWN))}")
    return tables[kind]


def _resource(state: State, kind: str, noun: Any) -> api.Resource:
    shown = _SHOWN[kind](noun)
    if isinstance(noun, Endpoint):
        shown["status"] = {"policyAuditMode": noun.policy_audit_mode or audits(state, noun.node)}
    elif isinstance(noun, Identity) and is_of_pods(noun):
        shown["status"] = {"endpoints": len(state.endpoints_of_identity.get(noun.id, ()))}
    metadata = shown["metadata"]
    return api.Resource(
        kind=kind,
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        json=json.dumps(shown, sort_keys=True, separators=(",", ":")),
    )


def _ours(kind: str, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _addresses(noun: Node | Endpoint) -> dict[str, str]:
    """Of the families that it has."""
    return {name: format_ip(ip) for name, ip in (("ip", noun.ip), ("ipv6", noun.ipv6)) if ip}


def _node(node: Node) -> dict[str, Any]:
    metadata = {"name": node.name, "labels": dict(node.labels)}
    return _ours("Node", metadata, {**_addresses(node), "podCIDRs": list(node.pod_cidrs)})


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    metadata = {"namespace": endpoint.namespace, "name": endpoint.name, "labels": dict(endpoint.labels)}
    spec = {
        "node": endpoint.node,
        "endpointId": endpoint.endpoint_id,
        **_addresses(endpoint),
        "identity": endpoint.identity,
        "containerId": endpoint.container_id,
        "serviceAccount": endpoint.service_account,
        "namedPorts": [
            {"name": port.name, "port": port.port, "protocol": PROTOCOL_NAMES.get(port.protocol, str(port.protocol))}
            for port in endpoint.named_ports
        ],
        "policyAuditMode": endpoint.policy_audit_mode,
    }
    return _ours("Endpoint", metadata, spec)


def _identity(identity: Identity) -> dict[str, Any]:
    return _ours("Identity", {"name": str(identity.id)}, {"id": identity.id, "labels": list(identity.labels)})


def _setting(setting: Setting) -> dict[str, Any]:
    spec = {"value": setting.value}
    if setting.node:
        spec["node"] = setting.node
    return _ours("Setting", {"name": setting.name}, spec)


_SHOWN: dict[str, Callable[[Any], dict[str, Any]]] = {
    **dict.fromkeys(_KEPT_AS_POLICIES, manifest_of),
    "Namespace": manifest_of,
    "Pod": manifest_of,
    SERVICE: manifest_of,
    ENDPOINT_SLICE: manifest_of,
    "Node": _node,
    "Endpoint": _endpoint,
    "Identity": _identity,
    "Setting": _setting,
}
