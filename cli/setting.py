"""`kilim setting list|set`: what holds for the whole cluster, or one node; kept in the log like everything else."""

import click

from kilim.cli.apply import actor
from kilim.cli.client import connect, server_option
from kilim.cli.command import Group
from kilim.cli.get import list_kind
from kilim.cli.output import output_option
from kilim.v1 import controlplane_pb2 as pb


@click.group(cls=Group)
def setting() -> None:
    """Settings of the cluster."""


@setting.command("list", example="kilim setting list")
@output_option("yaml", "json", "wide", "name")
@server_option
def setting_list(output: str | None, servers: str | None) -> None:
    """The settings that are not at their default."""
    list_kind("Setting", output, servers)


@setting.command(
    "set",
    example="""
    kilim setting set identity-release-grace-s 60
    kilim setting set enable-policy always
    kilim setting set policy-audit-mode true --node node1
    """,
)
@click.argument("name")
@click.argument("value")
@click.option("--node", default="", help="For this node alone, before the cluster's (policy-audit-mode).")
@server_option
def setting_set(name: str, value: str, node: str, servers: str | None) -> None:
    """Change a setting; an empty VALUE is the default again, with --node what holds for the cluster."""
    request = pb.ChangeSettingRequest(name=name, value=value, node=node, actor=actor())
    connect(servers).cluster("ChangeSetting", request)
    where, without = (f" on node {node}", "as for the cluster") if node else ("", "at its default")
    click.echo(f"setting {name} is {value or without}{where}")
