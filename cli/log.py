"""`kilim log …`: the event log itself; `tail` is here, the other verbs have rooms of their own.

JSON output is one object a line, so that a follower can be piped; the table is printed as entries come.
"""

import json
from typing import Any

import click

from kilim.cli.client import connect, server_option
from kilim.cli.command import Group
from kilim.cli.history.entries import HEADING, Entry, entry_data, entry_lines
from kilim.cli.log_compact import compact
from kilim.cli.log_export import export
from kilim.cli.log_restore import restore
from kilim.cli.log_show import show
from kilim.cli.log_verify import verify
from kilim.cli.output import output_option, to_yaml
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import events_pb2


@click.group(cls=Group)
def log() -> None:
    """The event log."""


log.add_command(show)
log.add_command(export)
log.add_command(verify)
log.add_command(compact)
log.add_command(restore)


@log.command(example="kilim log tail -f\nkilim log tail -n 50 -o json")
@click.option("-f", "--follow", is_flag=True, help="Go on as events happen.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="How many at first.")
@click.option("--from", "first", type=click.IntRange(min=1), help="First event, instead of --lines.")
@output_option("table", "json", "yaml", "wide")
@server_option
def tail(follow: bool, lines: int, first: int | None, output: str | None, servers: str | None) -> None:
    """Print the last events of the log, and with -f those that come. What they changed is in `kilim log show`."""
    client = connect(servers)
    status = client.cluster("Status", pb.StatusRequest(this_replica_only=True))
    head = int(status.seq)
    start = first or max(head - lines + 1, status.log.first_seq, 1)
    if output in {None, "table", "wide"}:
        click.echo(HEADING)
    if start <= head or follow:
        request = pb.ReadLogRequest(from_seq=start, to_seq=0 if follow else head, follow=follow)
        for message in client.read_log(request):
            _print(message, output)


def _print(message: Any, output: str | None) -> None:
    entry = Entry(message.seq, message.chain, events_pb2.Event.FromString(message.event))
    match output:
        case "json":
            click.echo(json.dumps(entry_data(entry), ensure_ascii=False))
        case "yaml":
            click.echo("---\n" + to_yaml(entry_data(entry)))
        case _:
            for line in entry_lines(entry, wide=output == "wide"):
                click.echo(line)
