"""What an event says in one line. Unknown bodies show by their name: the log may be newer than this program."""

import json
from collections.abc import Callable
from typing import Any

from kilim.model.address import format_ip
from kilim.model.nouns import EndpointSlice, Service, ipv6_of
from kilim.model.service import service_of, slice_of
from kilim.v1 import events_pb2 as pb

SECTIONS = {"ingress": "ingress", "ingressDeny": "ingress deny", "egress": "egress", "egressDeny": "egress deny"}


def event_name(event: pb.Event) -> str:
    """`EndpointAdded`; "unknown" for a body that this version has no field for."""
    field = event.WhichOneof("body")
    return "".join(part.capitalize() for part in field.split("_")) if field else "unknown"


def event_summary(event: pb.Event) -> str:
    field = event.WhichOneof("body")
    describe = SUMMARIES.get(field) if field else None
    return describe(getattr(event, field)) if describe and field else ""


def _place(noun: Any) -> str:
    return f"{noun.namespace}/{noun.name}" if noun.namespace else str(noun.name)


def _node(body: Any) -> str:
    return f"{body.node.name} {_addresses(body.node)} {','.join(body.node.pod_cidrs)}".rstrip()


def _endpoint(body: Any) -> str:
    endpoint = body.endpoint
    return f"{_place(endpoint)} {_addresses(endpoint)} on {endpoint.node}, identity {endpoint.identity}"


def _addresses(noun: Any) -> str:
    return ",".join(format_ip(ip) for ip in (noun.ip, ipv6_of(noun)) if ip) or "no address"


def _policy(body: Any) -> str:
    policy = body.policy
    try:
        said = _said(json.loads(policy.manifest_json))
    except (ValueError, AttributeError, TypeError):
        said = "unreadable"
    return f"{policy.kind} {_place(policy)} ({said})"


def _said(manifest: Any) -> str:
    """How many of each; a manifest of cilium.io may have `spec`, `specs`, or both."""
    specs = [manifest.get("spec") or {}, *(manifest.get("specs") or [])]
    cidrs = [len(spec["externalCIDRs"] or []) for spec in specs if "externalCIDRs" in spec]
    if cidrs:
        return f"{sum(cidrs)} CIDR{'s' if sum(cidrs) != 1 else ''}"
    counts = []
    for section, words in SECTIONS.items():
        found = [len(spec[section] or []) for spec in specs if section in spec]
        counts += [f"{sum(found)} {words}"] if found else []
    return "rules: " + ", ".join(counts) if counts else "no rules"


def _service(body: Any) -> str:
    service = body.service
    spec = service_of(Service(service.namespace, service.name, service.manifest_json))
    selector = ",".join(f"{key}={value}" for key, value in spec.selector)
    return f"{_place(service)} ({f'selector {selector}' if selector else 'no selector'})"


def _endpoint_slice(body: Any) -> str:
    part = body.endpoint_slice
    spec = slice_of(EndpointSlice(part.namespace, part.name, part.manifest_json))
    count = len(spec.addresses)
    of = f"of service {spec.service}" if spec.service else "of no service"
    return f"{_place(part)} ({of}, {count} address{'' if count == 1 else 'es'})"


def _labels(noun: Any) -> str:
    return ",".join(f"{label.key}={label.value}" for label in noun.labels) or "no labels"


SUMMARIES: dict[str, Callable[[Any], str]] = {
    "node_joined": _node,
    "node_updated": _node,
    "node_left": lambda body: str(body.name),
    "identity_allocated": lambda body: f"{body.identity.id} {','.join(body.identity.labels)}",
    "identity_released": lambda body: str(body.id),
    "endpoint_added": _endpoint,
    "endpoint_updated": _endpoint,
    "endpoint_removed": _place,
    "policy_replaced": _policy,
    "policy_removed": lambda body: f"{body.kind} {_place(body)}",
    "namespace_labelled": lambda body: f"{body.namespace.name} {_labels(body.namespace)}",
    "namespace_removed": lambda body: str(body.name),
    "pod_replaced": lambda body: f"{_place(body.pod)} {_labels(body.pod)}",
    "pod_removed": _place,
    "setting_changed": lambda body: f"{body.setting.name}={body.setting.value}",
    "service_replaced": _service,
    "service_removed": _place,
    "endpoint_slice_replaced": _endpoint_slice,
    "endpoint_slice_removed": _place,
}
