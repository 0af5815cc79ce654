"""`kilim replay`: the tables of a node as of any event, made anew from the log, without a kernel or a cluster.

Easy to get wrong: the same history prints the same bytes on every machine; nothing of its locale, clock or names may
come in, so text is encoded here.
"""

from collections.abc import Sequence
from typing import Any

import click

from kilim.cli.command import Command
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, to_json, to_yaml
from kilim.model.rows import TABLES


@click.command(
    cls=Command,
    example="""
    kilim replay --node node1
    kilim replay --node node1 --to 2026-11-22T14:03:00Z --table policy
    kilim replay --node node1 --to 20 --diff 29 --segments /var/backups/kilim
    """,
)
@click.option("--node", metavar="NODE", required=True, help="Whose tables.")
@click.option("--to", "at", metavar="SEQ|TIME", help="The last event that counts. [default: the last there is]")
@click.option("--diff", "until", metavar="SEQ|TIME", help="What has changed there since --to, and by which events.")
@click.option("--table", "names", type=click.Choice(TABLES), multiple=True, help="Only this table; may be given often.")
@output_option("table", "wide", "json", "yaml")
@history_options
def replay(
    node: str, at: str | None, until: str | None, names: tuple[str, ...], output: str | None, source: SourceOptions
) -> None:
    """Print every table of a node as of an event, or what differs between two.

    With -o wide every row says which event made it so, as far back as events are held: "<=20" is "by event 20 at the
    latest".
    """
    from kilim.cli.history import replayed

    history = open_history(source)
    tables = [table for table in TABLES if not names or table in names]
    if until is not None:
        _print(*replayed.difference(history, node, at, until, tables), output)
    elif output == "wide":
        _print(*replayed.tables_with_events(history, node, at, tables), output)
    else:
        _print(*replayed.tables_at(history, node, at, tables), output)


def _print(data: Any, lines: Sequence[str], output: str | None) -> None:
    match output:
        case "json":
            text = to_json(data)
        case "yaml":
            text = to_yaml(data)
        case _:
            text = "\n".join(lines)
    click.echo(text.encode())
