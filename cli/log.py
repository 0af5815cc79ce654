"""`kilim log …`: the event log itself; `tail` is here, the other verbs have rooms of their own.

JSON output is one object a line, so that a follower can be piped; the table is printed as entries come.
"""

import json

import click

from kilim.cli.client import Client, connect, server_option
from kilim.cli.command import Group
from kilim.cli.history.entries import HEADING, Entry, entry_as_it_comes, entry_data, entry_lines, moment_before
from kilim.cli.history.rebuild import not_yet
from kilim.cli.history.server import ServerHistory
from kilim.cli.log_compact import compact
from kilim.cli.log_export import export
from kilim.cli.log_restore import restore
from kilim.cli.log_show import show
from kilim.cli.log_verify import verify
from kilim.cli.output import output_option, to_yaml
from kilim.v1 import controlplane_pb2 as pb


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
@click.option("--from", "first", type=click.IntRange(min=1), metavar="SEQ", help="First event, instead of --lines.")
@output_option("table", "json", "yaml", "wide")
@server_option
def tail(follow: bool, lines: int, first: int | None, output: str | None, servers: str | None) -> None:
    """Print the last events of the log, and with -f those that come; with -o wide, json or yaml also what they changed.

    JSON is one object a line, the same as that of `kilim log show`, which also reads other parts of the log.
    """
    from kilim.cli.history.options import in_words

    in_words(lambda: _tail(connect(servers), follow, lines, first, output))


def _tail(client: Client, follow: bool, lines: int, first: int | None, output: str | None) -> None:
    history = ServerHistory(client)
    span = history.span()
    head = span.last_seq
    if first is not None and first > head and not follow:
        raise not_yet(first, head, "--from")
    start = first or max(head - lines + 1, span.first_seq)
    read_from = min(start, head + 1)
    state = None
    if output in {None, "table", "wide"}:
        click.echo(HEADING)
    if output not in {None, "table"} and (read_from <= head or follow):
        before = moment_before(history, read_from)
        state = before.state if before is not None else None
    if read_from <= head or follow:
        request = pb.ReadLogRequest(from_seq=read_from, to_seq=0 if follow else head, follow=follow)
        for message in client.read_log(request):
            entry = entry_as_it_comes(state, message.seq, message.chain, message.event)
            if entry.seq >= start:
                _print(entry, output)


def _print(entry: Entry, output: str | None) -> None:
    match output:
        case "json":
            click.echo(json.dumps(entry_data(entry), ensure_ascii=False))
        case "yaml":
            click.echo("---\n" + to_yaml(entry_data(entry)))
        case _:
            for line in entry_lines(entry, wide=output == "wide"):
                click.echo(line)
