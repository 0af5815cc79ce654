"""`--wait`: until every node that is up enforces a sequence number; a node that is down is named and not waited for.

Easy to get wrong: where no node is up nothing is enforced anywhere, and that is no success.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from kilim.cli.client import Client
from kilim.cli.duration import DURATION
from kilim.cli.failure import Failure
from kilim.cli.progress import waiting_for
from kilim.cli.table import age
from kilim.v1 import controlplane_pb2 as pb

MARGIN_S = 2.0  # the server ends the wait; this is for its answer to arrive

F = TypeVar("F", bound=Callable[..., Any])


def wait_options(command: F) -> F:
    """The command gets `wait` and `timeout`."""
    for option in (
        click.option("--timeout", type=DURATION, default="10s", show_default=True, help="How long --wait may take."),
        click.option("--wait", is_flag=True, help="Return when every node that is up enforces the change."),
    ):
        command = option(command)
    return command


def wait_for(client: Client, seq: int, timeout_s: float) -> None:
    request = pb.WaitRequest(seq=seq, timeout_ms=int(timeout_s * 1000))
    with waiting_for(f"waiting until every node enforces {seq}"):
        response = client.cluster("Wait", request, timeout_s + MARGIN_S)
    for name in response.down:
        click.echo(f"warning: node {name} is down and was not waited for", err=True)
    if response.done:
        return
    if response.down and not response.behind:
        raise Failure(f"no node is up: seq {seq} is enforced when their agents run again")
    raise Failure(f"seq {seq} is not enforced everywhere after {timeout_s:g}s: {name_behind(response.behind, seq)}")


def name_behind(nodes: Iterable[Any], seq: int) -> str:
    named = (f"node {node.name} is at {node.seq}: {why_behind(node, seq)}" for node in nodes)
    return "; ".join(named) or "the server is behind"


def why_behind(node: Any, seq: int) -> str:
    """What keeps a node: what its agent says of itself, else how far it is and since when it has been silent."""
    if node.errors:
        return ", ".join(node.errors)
    if not node.up:
        return "its agent has not been heard by this server yet"
    missing = max(seq - node.seq, 0)
    return f"{missing} event{'s' if missing != 1 else ''} behind, last report {age(node.last_report_age_ms)} ago"
