"""`kilim monitor`: what the datapath of one node has dropped, or let through by audit mode alone, and by whose word.

Easy to get wrong: records bear the kernel's own clock, which is this machine's since it started.
"""

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

from kilim.cli.addresses import with_port
from kilim.cli.agent_socket import ask, socket_of, socket_options
from kilim.cli.command import Command
from kilim.cli.duration import DURATION
from kilim.cli.explanation import rule_text
from kilim.cli.history.times import format_time
from kilim.model.identity import RESERVED_NAMES
from kilim.model.protocols import ICMP, ICMPV6, PROTOCOL_WORDS
from kilim.model.rules import Origin
from kilim.v1 import agent_pb2 as pb

AUDITS_OF = {"drop": False, "policy-verdict": True}
POLL_S = 0.3
MOST = 2_000  # that an answer holds
ICMP_KINDS = {ICMP: "ICMPv4", ICMPV6: "ICMPv6"}


@click.command(
    cls=Command,
    example="""
    kilim monitor --node node1
    kilim monitor --node node1 --type policy-verdict --last 100 -o json
    kilim monitor --type drop --since 5m --follow
    """,
)
@click.option(
    "-t", "--type", "types", multiple=True, type=click.Choice(list(AUDITS_OF)),
    help="drop: what was dropped. policy-verdict: what passed by audit mode alone. [default: both]",
)  # fmt: skip
@click.option("--last", type=click.IntRange(1), default=20, show_default=True, help="The newest so many.")
@click.option("--since", type=DURATION, metavar="DURATION", help="Only what is not older, such as 5m.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="A flow a line, in Hubble's words.")
@socket_options
def monitor(
    types: tuple[str, ...],
    last: int,
    since: float | None,
    follow: bool,
    output: str | None,
    node: str | None,
    agent_socket: str | None,
) -> None:
    """What one node's datapath dropped or audited, oldest first, with the policies that decided it.

    Policies and pods are named by what the node enforces now: where policy has come to say otherwise since, none is.
    """
    socket = socket_of(node, agent_socket)
    since_ns = 0 if since is None else max(1, time.monotonic_ns() - int(since * 1e9))
    is_first = True
    while True:
        found, left_out = _read(socket, types or tuple(AUDITS_OF), since_ns, last)
        if left_out and not is_first:
            click.echo(f"{left_out} records came too fast to be shown", err=True)
        for each in found:
            click.echo(json.dumps(as_flow(each)) if output == "json" else as_line(each))
        if not follow:
            return
        since_ns = max([since_ns, *(each.time_ns for each in found)])
        is_first, last = False, MOST
        time.sleep(POLL_S)


def _read(socket: str, types: Iterable[str], since_ns: int, last: int) -> tuple[list[pb.Drop], int]:
    """Oldest first, and how many of the time are not among them."""
    answers = [_list_drops(socket, audits, since_ns, last) for audits in {AUDITS_OF[each] for each in types}]
    found = sorted((each for answer in answers for each in answer.drops), key=lambda each: each.time_ns)
    return found[-last:], sum(answer.left_out for answer in answers) + max(0, len(found) - last)


def _list_drops(socket: str, audits: bool, since_ns: int, last: int) -> pb.ListDropsResponse:
    request = pb.ListDropsRequest(since_ns=since_ns, audits=audits, last=last, names=True)
    answer: pb.ListDropsResponse = ask(socket, lambda stub, timeout: stub.ListDrops(request, timeout=timeout))
    return answer


def as_line(record: pb.Drop) -> str:
    source, target = record.source_pod or record.source_ip, record.destination_pod or record.destination_ip
    if record.protocol in ICMP_KINDS:
        target = f"{target} type {record.destination_port}"
    else:
        source, target = with_port(source, record.source_port), with_port(target, record.destination_port)
    return (
        f"{format_time(_wall_ns(record))}: {source} ({_identity(record.source_identity)}) -> "
        f"{target} ({_identity(record.destination_identity)}) "
        f"{PROTOCOL_WORDS.get(record.protocol, record.protocol)} {record.verdict} "
        f"({record.reason}, {record.direction}){_by(record)}"
    )


def _by(record: pb.Drop) -> str:
    if record.policy_changed:
        return " policy has changed since"
    names = [
        rule_text(Origin(each.kind, each.namespace, each.name, each.section, each.rule)) for each in record.decided_by
    ]
    return f" by {', '.join(names)}" if names else ""


def _identity(number: int) -> str:
    return RESERVED_NAMES.get(number, f"ID:{number}") if number else "unknown"


def as_flow(record: pb.Drop) -> dict[str, Any]:
    """With the names of Hubble's flow.proto; `kilim simulate --against` reads it."""
    flow: dict[str, Any] = {
        "time": format_time(_wall_ns(record)),
        "verdict": record.verdict,
        "drop_reason": record.reason_number,
        "drop_reason_desc": record.reason,
        "IP": {"source": record.source_ip, "destination": record.destination_ip, "ipVersion": _version(record)},
        "l4": _l4(record),
        "source": _end(record.source_identity, record.source_pod),
        "destination": _end(record.destination_identity, record.destination_pod),
        "traffic_direction": record.direction.upper(),
    }
    if record.decided_by:
        flow[f"{record.direction}_denied_by"] = list(_denying(record.decided_by))
    if record.policy_changed:
        flow["policy_changed"] = True
    return flow


def _l4(record: pb.Drop) -> dict[str, Any]:
    if record.protocol in ICMP_KINDS:
        return {ICMP_KINDS[record.protocol]: {"type": record.destination_port}}
    word = PROTOCOL_WORDS.get(record.protocol)
    ports = {"source_port": record.source_port, "destination_port": record.destination_port}
    return {word: ports} if word else {}


def _version(record: pb.Drop) -> str:
    return "IPv6" if ":" in record.source_ip else "IPv4"


def _end(identity: int, pod: str) -> dict[str, Any]:
    namespace, _, name = pod.partition("/")
    return {"identity": identity} | ({"namespace": namespace, "pod_name": name} if pod else {})


def _denying(rules: Iterable[pb.DecidingRule]) -> Iterator[dict[str, Any]]:
    for rule in rules:
        name = {"kind": rule.kind, "namespace": rule.namespace, "name": rule.name}
        yield name | ({"section": rule.section, "rule": rule.rule} if rule.section else {})


def _wall_ns(record: pb.Drop) -> int:
    return time.time_ns() - time.monotonic_ns() + record.time_ns
