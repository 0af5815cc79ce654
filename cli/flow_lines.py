"""Hubble's flows, one JSON object a line (`hubble observe -o json`, or the file its exporter writes).

Easy to get wrong: replies are no connections of their own and are left out, and so is what has no IP address or no
protocol that policy knows; they are counted.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kilim.cli.failure import Failure
from kilim.model.address import parse_ip
from kilim.model.flow_verdicts import FlowEnd, SeenFlow
from kilim.model.protocols import ICMP, ICMPV6, PROTOCOLS

ICMP_KINDS = {"ICMPv4": ICMP, "ICMPv6": ICMPV6}


@dataclass(slots=True)
class SeenFlows:
    """How often each flow was seen."""

    flows: Counter[SeenFlow] = field(default_factory=Counter)
    replies: int = 0
    others: int = 0  # not IP, or nothing that policy speaks of


def read_flows(lines: Iterable[str], name: str) -> SeenFlows:
    seen = SeenFlows()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Failure(f"{name}: line {number}: no JSON: {error}") from None
        if not isinstance(body, dict):
            raise Failure(f"{name}: line {number}: must be an object")
        flow = body.get("flow", body)
        if not isinstance(flow, dict):
            raise Failure(f"{name}: line {number}: flow: must be an object")
        _take(seen, flow)
    return seen


def _take(seen: SeenFlows, flow: dict[str, Any]) -> None:
    if flow.get("is_reply") is True:
        seen.replies += 1
        return
    l4 = _l4(_object(flow, "l4"))
    ends = [_end(_object(flow, word), _object(flow, "IP").get(word)) for word in ("source", "destination")]
    if l4 is None or ends[0] is None or ends[1] is None:
        seen.others += 1
    else:
        seen.flows[SeenFlow(ends[0], ends[1], *l4)] += 1


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _l4(layer: dict[str, Any]) -> tuple[int, int] | None:
    for name, body in layer.items():
        if not isinstance(body, dict):
            continue
        if name in PROTOCOLS:
            return _numbered(PROTOCOLS[name], body.get("destination_port"), 0xFFFF)
        if name in ICMP_KINDS:
            return _numbered(ICMP_KINDS[name], body.get("type", 0), 0xFF)
    return None


def _numbered(protocol: int, number: object, most: int) -> tuple[int, int] | None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
        return None
    return protocol, number


def _end(endpoint: dict[str, Any], ip: object) -> FlowEnd | None:
    try:
        number = parse_ip(str(ip))
    except ValueError:
        return None
    namespace, name = endpoint.get("namespace"), endpoint.get("pod_name")
    return FlowEnd(f"{namespace}/{name}" if namespace and name else "", number)
