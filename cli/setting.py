"""`kilim setting list|get|set`: what holds for the whole cluster, or one node; kept in the log like everything else."""

from typing import Any

import click

from kilim.cli.apply import actor
from kilim.cli.client import Client, Refused, connect, server_option
from kilim.cli.command import Group
from kilim.cli.failure import BadUsage
from kilim.cli.get import list_objects
from kilim.cli.kinds import BY_NAME
from kilim.cli.output import output_option, print_data
from kilim.cli.settings_known import Shown, known_names, setting_data, settings_shown
from kilim.cli.table import table
from kilim.cli.wait import wait_for, wait_options
from kilim.v1 import controlplane_pb2 as pb

HEADERS = ("NAME", "NODE", "VALUE", "DEFAULT", "ALLOWED", "UNIT")
SINCE_HEADERS = ("EVENT", "TIME", "ACTOR")


@click.group(cls=Group)
def setting() -> None:
    """Settings of the cluster."""


@setting.command("list", example="kilim setting list\nkilim setting list -o wide")
@output_option("yaml", "json", "wide", "name")
@server_option
def setting_list(output: str | None, servers: str | None) -> None:
    """Every setting: its value, its default and what it may be; one of a node has a line of its own.

    With -o wide, json or yaml also the event that set it, where it is not at its default.
    """
    client = connect(servers)
    _print(client, settings_shown(list_objects(client, BY_NAME["Setting"])), output)


@setting.command(
    "get", example="kilim setting get log-retention-events\nkilim setting get policy-audit-mode --node node1 -o json"
)
@click.argument("name")
@click.option("--node", metavar="NODE", default="", help="What holds on this node.")
@output_option("yaml", "json", "wide")
@server_option
def setting_get(name: str, node: str, output: str | None, servers: str | None) -> None:
    """Print the value of one setting, the default where none is set; with -o all that `setting list` says of it."""
    if name not in known_names():
        raise _unknown(name)
    client = connect(servers)
    rows = [row for row in settings_shown(list_objects(client, BY_NAME["Setting"])) if row.name == name]
    row = next((row for row in rows if node and row.node == node), rows[0])
    if output is None:
        click.echo(row.value)
    else:
        _print(client, [row], output, alone=True)


def _print(client: Client, rows: list[Shown], output: str | None, alone: bool = False) -> None:
    if output == "name":
        click.echo("\n".join(dict.fromkeys(row.name for row in rows)))
        return
    if output is None:
        headers, body = _columns(rows)
        click.echo(table(headers, body))
        return
    from kilim.cli.history.options import in_words
    from kilim.cli.history.server import ServerHistory
    from kilim.cli.history.setting_events import events_of_settings, since_cells, since_data

    wanted = {(row.name, row.node) for row in rows if row.is_set}
    since = in_words(lambda: events_of_settings(ServerHistory(client), wanted))
    if output == "wide":
        headers, body = _columns(rows)
        cells = [since_cells(since.get((row.name, row.node))) if row.is_set else ["", "", ""] for row in rows]
        click.echo(table([*headers, *SINCE_HEADERS], [[*a, *b] for a, b in zip(body, cells, strict=True)]))
        return
    data: list[dict[str, Any]] = [
        {**setting_data(row), "event": since_data(since.get((row.name, row.node)))} for row in rows
    ]
    print_data(data[0] if alone else data, output)


def _columns(rows: list[Shown]) -> tuple[list[str], list[list[object]]]:
    """NODE only where a node has something of its own."""
    skipped = set() if any(row.node for row in rows) else {HEADERS.index("NODE")}
    cells = [(row.name, row.node, row.value, row.default, row.allowed, row.unit) for row in rows]
    return (
        [header for index, header in enumerate(HEADERS) if index not in skipped],
        [[cell for index, cell in enumerate(row) if index not in skipped] for row in cells],
    )


@setting.command(
    "set",
    context_settings={"ignore_unknown_options": True},  # so that a VALUE of -1 is judged by its setting's rule
    example="""
    kilim setting set identity-release-grace-s 60
    kilim setting set enable-policy always --wait
    kilim setting set policy-audit-mode true --node node1
    kilim setting set log-retention-events ""
    """,
)
@click.argument("name")
@click.argument("value")
@click.option(
    "--node", metavar="NODE", default="", help="For this node alone, before the cluster's (policy-audit-mode)."
)
@wait_options
@server_option
def setting_set(name: str, value: str, node: str, wait: bool, timeout: float, servers: str | None) -> None:
    """Change a setting; an empty VALUE is the default again, with --node what holds for the cluster.

    `kilim setting list` has the names, and what each may be.
    """
    request = pb.ChangeSettingRequest(name=name, value=value, node=node, actor=actor())
    client = connect(servers)
    try:
        seq = client.cluster("ChangeSetting", request).seq
    except Refused:
        if name in known_names():
            raise
        raise _unknown(name) from None
    where, without = (f" on node {node}", "as for the cluster") if node else ("", "at its default")
    click.echo(f"setting {name} is {value or without}{where}")
    if wait:
        wait_for(client, seq, timeout)


def _unknown(name: str) -> BadUsage:
    return BadUsage(f'NAME: "{name}" must be one of {", ".join(known_names())}')
