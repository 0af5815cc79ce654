"""`kilim log show|tail`: the event log itself.

JSON output is one object a line, so that a follower can be piped; the table is printed as entries come.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from kilim.cli.client import Client, connect, server_option
from kilim.cli.command import Command, Group
from kilim.cli.event import event_name, event_summary
from kilim.cli.failure import BadUsage
from kilim.cli.output import output_option, plain, to_yaml
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import events_pb2

TABLE = "{:>8}  {:<24}  {:<18}  {:<22}  {}"
HEADERS = ("SEQ", "TIME", "EVENT", "ACTOR", "WHAT")


@click.group(cls=Group)
def log() -> None:
    """The event log."""


@log.command(cls=Command, example="kilim log show --from 1 --to 20\nkilim log show -o json | jq .what")
@click.option("--from", "first", type=click.IntRange(min=1), default=1, show_default=True, help="First event.")
@click.option("--to", "last", type=click.IntRange(min=1), help="Last event. [default: the last there is]")
@output_option("table", "json", "yaml", "wide")
@server_option
def show(first: int, last: int | None, output: str | None, servers: str | None) -> None:
    """Print the events of the log, from the first one or a part of them."""
    if last is not None and last < first:
        raise BadUsage(f"--to: must be at least --from ({first})")
    client = connect(servers)
    head = _head(client)
    if first <= head:
        request = pb.ReadLogRequest(from_seq=first, to_seq=min(last or head, head))
        _print(client.read_log(request), output)


@log.command(cls=Command, example="kilim log tail -f\nkilim log tail -n 50 -o json")
@click.option("-f", "--follow", is_flag=True, help="Go on as events happen.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="How many at first.")
@click.option("--from", "first", type=click.IntRange(min=1), help="First event, instead of --lines.")
@output_option("table", "json", "yaml", "wide")
@server_option
def tail(follow: bool, lines: int, first: int | None, output: str | None, servers: str | None) -> None:
    """Print the last events of the log, and with -f those that come."""
    client = connect(servers)
    head = _head(client)
    start = first or max(head - lines + 1, 1)
    if start <= head or follow:
        _print(client.read_log(pb.ReadLogRequest(from_seq=start, to_seq=0 if follow else head, follow=follow)), output)


def _head(client: Client) -> int:
    return int(client.cluster("Status", pb.StatusRequest()).seq)


def _print(entries: Iterable[Any], output: str | None) -> None:
    if output in {None, "table", "wide"}:
        click.echo(TABLE.format(*HEADERS) + (" (CAUSE)" if output == "wide" else ""))
    for entry in entries:
        event = events_pb2.Event.FromString(entry.event)
        match output:
            case "json":
                click.echo(json.dumps(entry_data(entry, event), ensure_ascii=False))
            case "yaml":
                click.echo("---\n" + to_yaml(entry_data(entry, event)))
            case _:
                line = TABLE.format(entry.seq, _time(event), event_name(event), event.actor, event_summary(event))
                click.echo(line + (f" ({event.cause})" if output == "wide" else ""))


def entry_data(entry: Any, event: events_pb2.Event) -> dict[str, Any]:
    body = event.WhichOneof("body")
    return {
        "seq": entry.seq,
        "chain": entry.chain.hex(),
        "time": _time(event),
        "actor": event.actor,
        "cause": event.cause,
        "event": event_name(event),
        "what": plain(getattr(event, body)) if body else {},
    }


def _time(event: events_pb2.Event) -> str:
    moment = datetime.fromtimestamp(event.time_ns / 1e9, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
