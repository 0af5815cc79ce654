"""`kilim describe`: one resource in words, as `kubectl describe` says it."""

from typing import Any

import click

from kilim.cli.cilium_lines import cilium_policy_lines
from kilim.cli.client import connect, server_option
from kilim.cli.columns import policy_types, selector_text
from kilim.cli.command import Command
from kilim.cli.failure import BadUsage
from kilim.cli.get import get_object
from kilim.cli.kinds import kind_of, namespace_of
from kilim.cli.service_lines import endpoint_slice_lines, service_lines

INDENT = "  "
VALUE_COLUMN = 14


@click.command(cls=Command, example="kilim describe netpol db -n shop\nkilim describe endpoint/db-0 -n shop")
@click.argument("kind")
@click.argument("name", required=False)
@click.option("-n", "--namespace", metavar="NS", help="Namespace. [default: default]")
@server_option
def describe(kind: str, name: str | None, namespace: str | None, servers: str | None) -> None:
    """Show one resource in words."""
    word, _, slash_name = kind.partition("/")
    if bool(name) == bool(slash_name):
        raise BadUsage("NAME: give KIND NAME or KIND/NAME")
    known = kind_of(word)
    item = get_object(connect(servers), known, namespace_of(known, namespace, False), name or slash_name)
    click.echo("\n".join(describe_object(item)))


def describe_object(item: dict[str, Any]) -> list[str]:
    metadata = item.get("metadata") or {}
    lines = [_pair("Name", metadata.get("name"))]
    if metadata.get("namespace"):
        lines.append(_pair("Namespace", metadata["namespace"]))
    lines.append(_pair("Kind", item.get("kind")))
    lines += _labels("Labels", metadata.get("labels") or {})
    match item.get("kind"):
        case "NetworkPolicy":
            return lines + _policy(item)
        case "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy":
            return lines + cilium_policy_lines(item)
        case "Service":
            return [*lines, *service_lines(item)]
        case "EndpointSlice":
            return [*lines, *endpoint_slice_lines(item)]
    return lines + _generic(item)


def _pair(title: str, value: Any) -> str:
    return f"{title + ':':<{VALUE_COLUMN}}{value}"


def _labels(title: str, labels: dict[str, Any]) -> list[str]:
    texts = [f"{key}={value}" for key, value in sorted(labels.items())] or ["<none>"]
    return [_pair(title, texts[0]), *(" " * VALUE_COLUMN + text for text in texts[1:])]


def _generic(item: dict[str, Any]) -> list[str]:
    import yaml

    rest = {key: value for key, value in item.items() if key not in {"apiVersion", "kind", "metadata"} and value}
    text = str(yaml.safe_dump(rest, sort_keys=False, width=10**6)) if rest else ""
    return [line[:1].upper() + line[1:] for line in text.splitlines()]


def _policy(item: dict[str, Any]) -> list[str]:
    spec = item.get("spec") or {}
    types = policy_types(item)
    selector = selector_text(spec.get("podSelector"))
    chosen = "all pods of the namespace" if selector == "<none>" else selector
    lines = ["Spec:", f"{INDENT}Pods: {chosen}"]
    for direction, peers in (("Ingress", "From"), ("Egress", "To")):
        if direction in types:
            lines += _direction(direction, peers, spec.get(direction.lower()) or [])
        else:
            lines.append(f"{INDENT}Not affecting {direction.lower()} traffic")
    return [*lines, f"{INDENT}Policy types: {', '.join(types)}"]


def _direction(direction: str, peers: str, rules: list[dict[str, Any]]) -> list[str]:
    lines = [f"{INDENT}Allowing {direction.lower()} traffic:"]
    if not rules:
        return [*lines, f"{INDENT * 2}<none> (selected pods are isolated for {direction.lower()})"]
    for number, rule in enumerate(rules):
        lines += [f"{INDENT * 2}{'-' * 10}"] if number else []
        lines += [f"{INDENT * 2}To port: {_port(port)}" for port in rule.get("ports") or [{}]]
        for peer in rule.get(peers.lower()) or [{}]:
            lines += [f"{INDENT * 2}{peers}: {text}" for text in _peer(peer)]
    return lines


def _port(port: dict[str, Any]) -> str:
    if "port" not in port:
        return f"<any>/{port['protocol']}" if "protocol" in port else "<any> (traffic allowed to all ports)"
    last = f"-{port['endPort']}" if "endPort" in port else ""
    return f"{port['port']}{last}/{port.get('protocol', 'TCP')}"


def _peer(peer: dict[str, Any]) -> list[str]:
    if not peer:
        return ["<any> (traffic not restricted by peer)"]
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        excepted = ", ".join(block.get("except") or [])
        return [f"IPBlock {block.get('cidr')}" + (f" except {excepted}" if excepted else "")]
    return [
        f"{title} {selector_text(peer[field])}"
        for field, title in (("namespaceSelector", "NamespaceSelector:"), ("podSelector", "PodSelector:"))
        if field in peer
    ]
