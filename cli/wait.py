"""`--wait`: until every node that is up enforces a sequence number."""

import click

from kilim.cli.client import Client
from kilim.cli.failure import Failure
from kilim.cli.progress import waiting_for
from kilim.v1 import controlplane_pb2 as pb

MARGIN_S = 2.0  # the server ends the wait; this is for its answer to arrive


def wait_for(client: Client, seq: int, timeout_s: float) -> None:
    request = pb.WaitRequest(seq=seq, timeout_ms=int(timeout_s * 1000))
    with waiting_for(f"waiting until every node enforces {seq}"):
        response = client.cluster("Wait", request, timeout_s + MARGIN_S)
    for name in response.down:
        click.echo(f"warning: node {name} is down and was not waited for", err=True)
    if not response.done and response.down and not response.behind:
        raise Failure(f"no node is up: seq {seq} is enforced when their agents run again")
    if not response.done:
        behind = ", ".join(f"{node.name} (at {node.seq})" for node in response.behind)
        raise Failure(f"not enforced everywhere after {timeout_s:g}s: seq {seq}, behind: {behind or 'unknown'}")
