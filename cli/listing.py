"""`kilim identity|node list`: what the log knows of each."""

import click

from kilim.cli.client import connect, server_option
from kilim.cli.command import Group
from kilim.cli.get import list_kind
from kilim.cli.nodes import PLACE, node_rows
from kilim.cli.output import output_option, plain, print_data
from kilim.cli.table import table
from kilim.v1 import controlplane_pb2 as pb


@click.group(cls=Group)
def identity() -> None:
    """Identities: numbers for sets of labels."""


@identity.command("list", example="kilim identity list")
@output_option("yaml", "json", "wide", "name")
@server_option
def identity_list(output: str | None, servers: str | None) -> None:
    """Every identity, with its labels and how many endpoints have it.

    0 endpoints: no pod has it any more, and it is released after the setting identity-release-grace-s. <none>: it is
    not of pods, but of nodes, of a prefix, or reserved.
    """
    list_kind("Identity", output, servers)


@click.group(cls=Group)
def node() -> None:
    """Nodes and what they enforce."""


@node.command("list", example="kilim node list -o json")
@output_option("json", "yaml", "wide")
@server_option
def node_list(output: str | None, servers: str | None) -> None:
    """Every node, with its sequence number and digests."""
    status = connect(servers).cluster("Status", pb.StatusRequest())
    if output in {"json", "yaml"}:
        print_data([plain(node) for node in status.nodes], output)
    elif not status.nodes:
        click.echo("No resources found.", err=True)
    else:
        click.echo(table(*node_rows(status.nodes, PLACE, wide=output == "wide")))
