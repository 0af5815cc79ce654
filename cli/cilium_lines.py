"""A cilium.io policy in words, for `kilim describe`: whom it selects, what it isolates, what it allows and denies."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from kilim.cli.columns import cilium_specs, default_deny, selector_text

_INDENT = "  "
_SECTIONS = (
    ("ingress", "Allowing ingress traffic:"),
    ("ingressDeny", "Denying ingress traffic:"),
    ("egress", "Allowing egress traffic:"),
    ("egressDeny", "Denying egress traffic:"),
)
_WORDS = {"CIDR": "CIDR", "CIDRSet": "CIDR", "Endpoints": "endpoints", "Entities": "entity"}


def cilium_policy_lines(item: dict[str, Any]) -> list[str]:
    everywhere = item.get("kind") == "CiliumClusterwideNetworkPolicy"
    return [line for spec in cilium_specs(item) for line in _spec_lines(spec, everywhere)]


def _spec_lines(spec: dict[str, Any], everywhere: bool) -> Iterator[str]:
    selector = selector_text(spec.get("endpointSelector"))
    everybody = "all endpoints" if everywhere else "all endpoints of the namespace"
    yield "Spec:"
    if spec.get("description"):
        yield f"{_INDENT}Description: {spec['description']}"
    yield f"{_INDENT}Endpoints: {everybody if selector == '<none>' else selector}"
    yield f"{_INDENT}Default deny: {', '.join(default_deny(spec)) or '<none>'}"
    for section, title in _SECTIONS:
        rules = spec.get(section) or []
        if rules:
            yield f"{_INDENT}{title}"
        for number, rule in enumerate(rules):
            if number:
                yield f"{_INDENT * 2}{'-' * 10}"
            yield from (f"{_INDENT * 2}{line}" for line in _rule_lines(rule))


def _rule_lines(rule: dict[str, Any]) -> Iterator[str]:
    peers = [field for field in sorted(rule) if field.startswith(("from", "to")) and field != "toPorts"]
    limited = bool(rule.get("toPorts") or rule.get("icmps"))
    if not peers and not limited:
        yield "<nothing> (an empty rule only isolates)"
        return
    yield from (f"To port: {text}" for entry in rule.get("toPorts") or () for text in _ports(entry))
    yield from (f"To ICMP type: {text}" for entry in rule.get("icmps") or () for text in _types(entry))
    if not limited:
        yield "To port: <any>"
    if not peers:
        yield "Peers: <any>"
    for field in peers:
        side = "From" if field.startswith("from") else "To"
        kind = field[len(side) :]
        for peer in rule[field] or ["<nobody>"]:
            yield f"{side} {_WORDS.get(kind, kind)}: {_peer(peer)}"


def _peer(peer: Any) -> str:
    if not isinstance(peer, dict):
        return str(peer)
    if "cidrGroupSelector" in peer:
        text = f"of groups {selector_text(peer['cidrGroupSelector'])}"
    elif "cidrGroupRef" in peer:
        text = f"of group {peer['cidrGroupRef']}"
    elif "cidr" in peer:
        text = str(peer["cidr"])
    elif peer.keys() <= {"matchLabels", "matchExpressions"}:
        text = selector_text(peer)
        return "<any>" if text == "<none>" else text
    else:
        return json.dumps(peer, sort_keys=True)
    excepts = ", ".join(peer.get("except") or [])
    return f"{text} except {excepts}" if excepts else text


def _ports(entry: dict[str, Any]) -> Iterable[str]:
    for port in entry.get("ports") or ():
        last = f"-{port['endPort']}" if port.get("endPort") else ""
        number = "<any>" if port["port"] == "0" else port["port"]
        yield f"{number}{last}/{port.get('protocol') or 'ANY'}"


def _types(entry: dict[str, Any]) -> Iterable[str]:
    for field in entry.get("fields") or ():
        yield f"{field['type']} ({field.get('family') or 'IPv4'})"
