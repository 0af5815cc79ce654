"""`kilim why`: the verdict on a flow, the entries that give it on each node, and the events that put them there.

Easy to get wrong: a pod is looked up as of the event that is asked about; it may have come later or be gone since.
"""

import click

from kilim.cli.command import Command
from kilim.cli.failure import BadUsage
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, print_data
from kilim.cli.port import PORT, PORT_FORM, Port, l4_of
from kilim.model.address import parse_ip
from kilim.model.flips import Parties
from kilim.model.protocols import PROTOCOL_NUMBERS


@click.command(
    cls=Command,
    example="""
    kilim why --from shop/web --to shop/db --port 5432
    kilim why --from 203.0.113.7 --to shop/dns --port 53/UDP --at 2026-11-22T14:03:00Z
    kilim why --from shop/web --to shop/db --port 5432 --bisect
    """,
)
@click.option("--from", "sender", required=True, metavar="NS/POD|IP", help="Who opens the connection.")
@click.option("--to", "target", required=True, metavar="NS/POD|IP", help="Who is spoken to.")
@click.option(
    "--port", type=PORT, metavar=PORT_FORM, help="Destination port; of ICMP the type. [default for ICMP: 8, a ping]"
)
@click.option(
    "--protocol", type=click.Choice(list(PROTOCOL_NUMBERS), case_sensitive=False),
    help="Of the connection. [default: TCP]",
)  # fmt: skip
@click.option("--at", metavar="SEQ|TIME", help="As of this event. [default: the last there is]")
@click.option("--bisect", is_flag=True, help="Find the event at which the verdict last changed.")
@output_option("json", "yaml")
@history_options
def why(
    sender: str, target: str, port: Port | None, protocol: str | None, at: str | None, bisect: bool,
    output: str | None, source: SourceOptions,
) -> None:  # fmt: skip
    """Say why a connection is allowed or denied, since when, and by whose hand.

    By the log, whose tables it shows for both nodes; whether their kernels hold these, `kilim verify` says.
    """
    parties = Parties(parse_end("--from", sender), parse_end("--to", target), *l4_of(port, protocol))
    from kilim.cli import verdict_history

    history = open_history(source)
    report = verdict_history.bisect if bisect else verdict_history.explain_at
    data, lines = report(history, at, parties)
    if output:
        print_data(data, output)
    else:
        click.echo("\n".join(lines))


def _pod(option: str, text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise BadUsage(f'{option}: "{text}" must be NAMESPACE/POD')
    return text


def parse_end(option: str, text: str) -> str | int:
    """A pod, or an address."""
    if "/" in text:
        return _pod(option, text)
    try:
        return parse_ip(text)
    except ValueError:
        raise BadUsage(f'{option}: "{text}" must be NAMESPACE/POD or an IP address') from None
