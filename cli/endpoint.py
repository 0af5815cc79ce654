"""`kilim endpoint list|get|config`: endpoints, the verdict table of one of them, and its options."""

import click

from kilim.cli.apply import actor
from kilim.cli.client import connect, server_option
from kilim.cli.command import Group
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.get import get_object, list_kind
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.kinds import BY_NAME
from kilim.cli.output import output_option, print_data
from kilim.cli.wait import wait_for, wait_options
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
    "get", example="kilim endpoint get shop/db\nkilim endpoint get 3 --node node1\nkilim endpoint get shop/db --at 1200"
)
@click.argument("which", metavar="NS/POD|ID")
@click.option("--node", metavar="NODE", help="Of the endpoint with this ID, where several nodes have one.")
@click.option("--at", metavar="SEQ|TIME", help="As of this event. [default: the last there is]")
@output_option("json", "yaml")
@history_options
def endpoint_get(which: str, node: str | None, at: str | None, output: str | None, source: SourceOptions) -> None:
    """One endpoint and its verdict table: every row with the rules that asked for it and the event it stands since."""
    from kilim.cli.history.rebuild import seq_at, state_at

    if "/" not in which and not (which.isascii() and which.isdigit()):
        raise BadUsage(f'NS/POD|ID: "{which}" must be NAMESPACE/POD or the number of an endpoint')
    if "/" in which and node:
        raise BadUsage("--node: goes with the number of an endpoint")
    history = open_history(source)
    state = state_at(history, None if at is None else seq_at(history, at, "--at"))
    from kilim.cli import endpoint_table
    from kilim.model.endpoint_policy import endpoint_policy, endpoints_with_id

    keys = [which] if which in state.endpoints else []
    if "/" not in which:
        keys = endpoints_with_id(state, int(which), node)
    if not keys:
        raise Failure(f"no endpoint {which}{f' on node {node}' if node else ''} as of event {state.seq}")
    if len(keys) > 1:
        raise BadUsage(f"--node: must be given, endpoint {which} is {', '.join(keys)}")
    found = endpoint_policy(state, keys[0])
    if output:
        print_data(endpoint_table.as_data(history, state, found), output)
    else:
        click.echo("\n".join(endpoint_table.as_lines(history, state, found)))


@endpoint.command(
    "config",
    example="""
    kilim endpoint config shop/db
    kilim endpoint config shop/db PolicyAuditMode=Enabled --wait
    """,
)
@click.argument("name", metavar="NS/POD")
@click.argument("options", nargs=-1, metavar="[OPTION=Enabled|Disabled…]")
@wait_options
@server_option
def endpoint_config(name: str, options: tuple[str, ...], wait: bool, timeout: float, servers: str | None) -> None:
    """Show or change the options of one endpoint, which hold while its pod lives.

    PolicyAuditMode: what its policy would drop is forwarded, counted and recorded as AUDIT. It is on, too, where the
    setting policy-audit-mode is true of its node or of the cluster.
    """
    namespace, _, pod = name.rpartition("/")
    values = [_enabled(option) for option in options]
    if wait and not values:
        raise BadUsage("--wait: goes with an option to change")
    client, namespace, seq = connect(servers), namespace or "default", 0
    for value in values[-1:]:
        request = pb.ConfigureEndpointRequest(namespace=namespace, name=pod, policy_audit_mode=value, actor=actor())
        seq = client.cluster("ConfigureEndpoint", request).seq
    shown = get_object(client, BY_NAME["Endpoint"], namespace, pod)
    own, effective = shown["spec"]["policyAuditMode"], shown["status"]["policyAuditMode"]
    by_setting = " (on by the setting policy-audit-mode)" if effective and not own else ""
    click.echo(f"PolicyAuditMode: {'Enabled' if own else 'Disabled'}{by_setting}")
    if wait:
        wait_for(client, seq, timeout)


def _enabled(option: str) -> bool:
    name, _, value = option.partition("=")
    if name != "PolicyAuditMode":
        raise BadUsage(f"{option}: option must be PolicyAuditMode")
    if value not in ("Enabled", "Disabled"):
        raise BadUsage(f"{option}: value must be Enabled or Disabled")
    return value == "Enabled"
