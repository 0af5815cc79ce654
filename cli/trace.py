"""`kilim policy trace`: what policy says of a pair, step by step, on one port or on all.

Easy to get wrong: policy alone is asked, whatever nodes or kernels are up to; `kilim why` looks at a node's tables.
"""

from typing import TYPE_CHECKING

import click

from kilim.cli.command import Command
from kilim.cli.failure import BadUsage
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, print_data
from kilim.cli.port import PORT, PORT_FORM, Port, l4_of
from kilim.cli.why import parse_end
from kilim.model.identity import HOST, REMOTE_NODE, WORLD, WORLD_IPV6
from kilim.model.protocols import PROTOCOL_NUMBERS

if TYPE_CHECKING:
    from kilim.cli.tracing import Wanted

_LABELS = "k8s:app=web,…"
_END = "NS/POD|IP|ENTITY"
# those with an identity of their own; of `world` it is that of the family
ENTITIES = {"host": HOST, "world": WORLD, "world-ipv4": WORLD, "world-ipv6": WORLD_IPV6, "remote-node": REMOTE_NODE}


@click.command(
    "trace",
    cls=Command,
    example="""
    kilim policy trace --from shop/web --to shop/db --port 5432
    kilim policy trace --from shop/web --to 203.0.113.7
    kilim policy trace --from-labels app=web,tier=front --from-namespace shop --to shop/db --dport 53/UDP
    """,
)
@click.option(
    "--from",
    "--src-k8s-pod",
    "source_pod",
    metavar=_END,
    help="Who opens the connection; an entity: host, world, world-ipv4, world-ipv6, remote-node.",
)
@click.option("--from-labels", "--src", "source_labels", metavar=_LABELS, help="A pod with these labels does.")
@click.option("--from-namespace", metavar="NS", help="Of the pod with --from-labels. [default: default]")
@click.option("--from-identity", "--src-identity", type=int, metavar="ID", help="Somebody of this identity does.")
@click.option("--to", "--dst-k8s-pod", "target", metavar=_END, help="Who is spoken to; the same.")
@click.option("--to-labels", "--dst", "target_labels", metavar=_LABELS, help="A pod with these labels is.")
@click.option("--to-namespace", metavar="NS", help="Of the pod with --to-labels. [default: default]")
@click.option("--to-identity", "--dst-identity", type=int, metavar="ID", help="Somebody of this identity is.")
@click.option(
    "--port", "--dport", type=PORT, metavar=PORT_FORM,
    help="Destination port; of ICMP the type. [default: all of all protocols]",
)  # fmt: skip
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOL_NUMBERS), case_sensitive=False),
    help="Of the connection; ICMP is ICMPv6 between ends that have IPv6 alone in common. [default: TCP, with --port]",
)
@click.option("--at", metavar="SEQ|TIME", help="As of this event. [default: the last there is]")
@output_option("json", "yaml")
@history_options
def trace(
    source_pod: str | None, source_labels: str | None, from_namespace: str | None, from_identity: int | None,
    target: str | None, target_labels: str | None, to_namespace: str | None, to_identity: int | None,
    port: Port | None, protocol: str | None, at: str | None, output: str | None, source: SourceOptions,
) -> None:  # fmt: skip
    """Say what policy makes of a connection: who selects its ends, which rules match, and which decides."""
    from kilim.cli.history.rebuild import seq_at, state_at
    from kilim.cli.tracing import traced

    sender = _wanted("--from", source_pod, source_labels, from_namespace, from_identity)
    receiver = _wanted("--to", target, target_labels, to_namespace, to_identity)
    for each in (sender, receiver):
        if sum(given is not None for given in (each.end, each.labels, each.identity)) != 1:
            raise BadUsage(f"{each.option}: give one of {each.option}, {each.option}-labels and {each.option}-identity")
        if each.namespace is not None and each.labels is None:
            raise BadUsage(f"{each.option}-namespace: goes with {each.option}-labels")
    l4 = None if port is None and protocol is None else l4_of(port, protocol)
    history = open_history(source)
    state = state_at(history, None if at is None else seq_at(history, at, "--at"))
    data, lines = traced(state, sender, receiver, l4)
    if output:
        print_data(data, output)
    else:
        click.echo("\n".join(lines))


def _wanted(option: str, text: str | None, labels: str | None, namespace: str | None, identity: int | None) -> "Wanted":
    from kilim.cli.tracing import Wanted

    if text in ENTITIES and identity is None:
        return Wanted(option, None, labels, namespace, ENTITIES[text], is_world=text == "world")
    return Wanted(option, None if text is None else parse_end(option, text), labels, namespace, identity)
