"""`kilim endpoint|identity|policy|node list`: what the log knows of each, in all namespaces."""

import click

from kilim.cli.apply import actor
from kilim.cli.client import connect, server_option
from kilim.cli.command import Group
from kilim.cli.failure import BadUsage
from kilim.cli.get import get_object, list_kind
from kilim.cli.kinds import BY_NAME
from kilim.cli.nodes import PLACE, node_rows
from kilim.cli.output import output_option, plain, print_data
from kilim.cli.table import table
from kilim.v1 import controlplane_pb2 as pb


@click.group(cls=Group)
def endpoint() -> None:
    """Endpoints: the pods that Kilim connects."""


@endpoint.command("list", example="kilim endpoint list -o wide")
@output_option("yaml", "json", "wide", "name")
@server_option
def endpoint_list(output: str | None, servers: str | None) -> None:
    """Every endpoint, with its node, address and identity."""
    list_kind("Endpoint", output, servers)


@endpoint.command(
    "config",
    example="""
    kilim endpoint config shop/db
    kilim endpoint config shop/db PolicyAuditMode=Enabled
    """,
)
@click.argument("name", metavar="NAMESPACE/POD")
@click.argument("options", nargs=-1, metavar="[OPTION=Enabled|Disabled…]")
@server_option
def endpoint_config(name: str, options: tuple[str, ...], servers: str | None) -> None:
    """Show or change the options of one endpoint, which hold while its pod lives.

    PolicyAuditMode: what its policy would drop is forwarded, counted and recorded as AUDIT. It is on, too, where the
    setting policy-audit-mode is true of its node or of the cluster.
    """
    namespace, _, pod = name.rpartition("/")
    client, namespace = connect(servers), namespace or "default"
    for value in [_enabled(option) for option in options][-1:]:
        request = pb.ConfigureEndpointRequest(namespace=namespace, name=pod, policy_audit_mode=value, actor=actor())
        client.cluster("ConfigureEndpoint", request)
    shown = get_object(client, BY_NAME["Endpoint"], namespace, pod)
    own, effective = shown["spec"]["policyAuditMode"], shown["status"]["policyAuditMode"]
    by_setting = " (on by the setting policy-audit-mode)" if effective and not own else ""
    click.echo(f"PolicyAuditMode: {'Enabled' if own else 'Disabled'}{by_setting}")


def _enabled(option: str) -> bool:
    name, _, value = option.partition("=")
    if name != "PolicyAuditMode":
        raise BadUsage(f"{option}: option must be PolicyAuditMode")
    if value not in ("Enabled", "Disabled"):
        raise BadUsage(f"{option}: value must be Enabled or Disabled")
    return value == "Enabled"


@click.group(cls=Group)
def identity() -> None:
    """Identities: numbers for sets of labels."""


@identity.command("list", example="kilim identity list")
@output_option("yaml", "json", "wide", "name")
@server_option
def identity_list(output: str | None, servers: str | None) -> None:
    """Every identity, with its labels."""
    list_kind("Identity", output, servers)


@click.group(cls=Group)
def policy() -> None:
    """Policies of all namespaces."""


@policy.command("list", example="kilim policy list")
@output_option("yaml", "json", "wide", "name")
@server_option
def policy_list(output: str | None, servers: str | None) -> None:
    """Every policy, with what it selects."""
    list_kind("NetworkPolicy", output, servers)


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
