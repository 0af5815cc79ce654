"""`kilim verify`: is what the kernels of the nodes hold what the log says, entry by entry. Exit status 1 where not.

Easy to get wrong: nodes that are down are named and do not fail, unless they were asked for or no node is up at all.
"""

import time
from collections.abc import Sequence
from typing import Any

import click

from kilim.cli.command import Command
from kilim.cli.failure import FAILED, Failure
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, print_data
from kilim.cli.progress import waiting_for

BEHIND_S = 10.0
POLL_S = 0.1


@click.command(cls=Command, example="kilim verify\nkilim verify --node node1 --node node2 -o json")
@click.option(
    "--node",
    "names",
    metavar="NODE",
    multiple=True,
    help="Only this node; may be given often. [default: every one that is up]",
)
@output_option("json", "yaml")
@history_options
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...], output: str | None, source: SourceOptions) -> None:
    """Read the tables out of each node's kernel and compare them with those that the log gives, entry by entry.

    "Wrong beyond its rows" is local drift: the rows are right, but the interface or the MAC address that the node's
    agent joins to them is not; the agent repairs it. "Waits for its interface": the pod's interface is not there, so
    its endpoint is not in the kernel yet and is closed.
    """
    from kilim.cli.client import connect
    from kilim.cli.history import kernels

    client = connect(source.servers)
    up, down = _nodes(client, names)
    held, results = [], []
    for node in up:
        try:
            with waiting_for(f"reading the kernel of {node}"):
                held.append(kernels.read_held(client, node))
        except Failure as error:
            results.append(kernels.NodeResult(node, error=error.message))
    _wait_for_event(client, max((each.seq for each in held), default=0))
    results += kernels.compare(open_history(source), held) if held else []
    results.sort(key=lambda result: result.node)
    is_clean = all(result.is_clean for result in results) and not (down and (names or not up))
    if output:
        nodes = [kernels.result_data(result) for result in results]
        print_data({"ok": is_clean, "nodes": nodes, "down": down}, output)
    elif results or down:
        click.echo("\n".join(kernels.result_lines(results, down)))
    else:
        click.echo("No nodes.")
    context.exit(0 if is_clean else FAILED)


def _nodes(client: Any, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are up, and those that are not."""
    from kilim.v1 import controlplane_pb2 as pb

    status = client.cluster("Status", pb.StatusRequest(this_replica_only=True))
    is_up = {node.name: node.up for node in status.nodes}
    for name in names:
        if name not in is_up:
            raise Failure(f'no node "{name}"; there is {", ".join(sorted(is_up)) or "none"}')
    wanted = sorted(set(names) or is_up)
    return [name for name in wanted if is_up[name]], [name for name in wanted if not is_up[name]]


def _wait_for_event(client: Any, seq: int) -> None:
    """A node may be some events ahead of the replica that is asked for the log."""
    from kilim.v1 import controlplane_pb2 as pb

    deadline = time.monotonic() + BEHIND_S
    while client.cluster("Status", pb.StatusRequest(this_replica_only=True)).seq < seq:
        if time.monotonic() > deadline:
            raise Failure(f"a node enforces event {seq}, which the server has not seen in {BEHIND_S:g} s")
        time.sleep(POLL_S)
