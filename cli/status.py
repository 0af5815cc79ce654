"""`kilim status`: is everything well. Exit status 1 where it is not, with a line for each problem."""

import time
from typing import Any

import click

from kilim.cli.client import connect, server_option
from kilim.cli.command import Command
from kilim.cli.duration import DURATION
from kilim.cli.failure import FAILED, Failure
from kilim.cli.nodes import HEALTH, compared_text, digest_text, node_rows
from kilim.cli.output import output_option, plain, print_data
from kilim.cli.progress import waiting_for
from kilim.cli.table import size, table
from kilim.cli.wait import name_behind
from kilim.v1 import controlplane_pb2 as pb

POLL_S = 0.2


@click.command(cls=Command, example="kilim status --wait\nkilim status -o json")
@click.option(
    "--wait", is_flag=True, help="Return when everything is well and every node enforces what the log has by now."
)
@click.option("--timeout", type=DURATION, default="30s", show_default=True, help="How long --wait may take.")
@output_option("json", "yaml", "wide")
@server_option
@click.pass_context
def status(context: click.Context, wait: bool, timeout: float, output: str | None, servers: str | None) -> None:
    """Is everything well: replicas, etcd, nodes, sequence number and digests of each.

    A digest has a ✓ where the server that answers reckons the same one itself, ✗ where it does not, … while it has not
    compared yet. LAG is events not enforced yet, and since when there are any. KERNEL compares what the agent last read
    back from its kernel.

    ? is what was right when it was last heard and may be otherwise now: all of a node that is down (no connection to
    this server) or silent (connected, nothing heard for 5s), and a KERNEL that was last read back so long ago (? 5m).
    """
    answer, behind = _well(servers, timeout) if wait else (connect(servers).cluster("Status", pb.StatusRequest()), "")
    if output in {"json", "yaml"}:
        print_data(plain(answer), output)
    else:
        click.echo(render(answer, wide=output == "wide"))
    if behind:
        raise Failure(behind)
    context.exit(0 if answer.ok else FAILED)


def _well(servers: str | None, timeout_s: float) -> tuple[Any, str]:
    """The first status that is well and where nothing that the log had at the beginning lacks anywhere; or the last one
    there was, and who is behind."""
    client, answer, deadline = connect(servers), None, time.monotonic() + timeout_s
    seq = 0
    with waiting_for("waiting until everything is well"):
        while True:
            try:
                answer = client.cluster("Status", pb.StatusRequest())
                seq = seq or answer.seq
                if answer.ok and not still_behind(answer, seq):
                    return answer, ""
            except Failure:
                if time.monotonic() > deadline and answer is None:
                    raise
            if time.monotonic() > deadline:
                return answer, still_behind(answer, seq)
            time.sleep(POLL_S)


def still_behind(answer: Any, seq: int) -> str:
    """The nodes that are up and do not enforce `seq`, in words."""
    behind = [node for node in answer.nodes if node.up and node.seq < seq]
    if not behind and answer.seq >= seq:
        return ""
    return f"seq {seq} is not enforced everywhere: {name_behind(behind, seq)}"


def render(answer: Any, wide: bool) -> str:
    sections = ["\n".join(_summary(answer, wide))]
    if answer.replicas:
        sections.append(
            "Replicas\n" + table(["NAME", "ADDRESS", "ROLE", "SEQ", "STATE DIGEST"], _replicas(answer, wide))
        )
    if answer.nodes:
        sections.append("Nodes\n" + table(*node_rows(answer.nodes, HEALTH, wide)))
    if answer.problems:
        sections.append("Problems\n" + "\n".join(f"- {problem}" for problem in answer.problems))
    return "\n\n".join(sections)


def _summary(answer: Any, wide: bool) -> list[str]:
    return [
        f"Kilim    {'ok' if answer.ok else 'NOT OK'}",
        f"Log      seq {answer.seq}, chain {digest_text(answer.chain, wide)}",
        f"History  {_history(answer.log)}",
        f"State    digest {digest_text(answer.state_digest, wide)}",
        f"Policy   {_policy(answer)}",
        *([f"Routing  {', '.join(modes)}"] if (modes := _routing_modes(answer)) else []),
        f"etcd     {_etcd(answer.etcd)}",
    ]


def _routing_modes(answer: Any) -> list[str]:
    """One, unless something is wrong; none where no agent has said."""
    return sorted({node.routing_mode for node in answer.nodes if node.routing_mode})


def _policy(answer: Any) -> str:
    """Which endpoints are isolated, and where that drops nothing."""
    audited = [node.name for node in answer.nodes if node.policy_audit_mode]
    where = (
        "every node" if len(audited) == len(answer.nodes) else f"node{'s' * (len(audited) > 1)} {', '.join(audited)}"
    )
    return f"enable-policy {answer.enable_policy or 'default'}" + (f", AUDIT MODE on {where}" if audited else "")


def _history(log: Any) -> str:
    """What is there to go back to."""
    count = len(log.snapshots)
    parts = [f"from event {log.first_seq or 1}", f"{count} snapshot{'s' if count != 1 else ''}"]
    if count:
        parts[1] += f" (newest at {log.snapshots[-1].seq})"
    parts += [f"archived to {log.archived_seq}"] if log.archived_seq else []
    parts += [f"NOT KEPT IN BOUNDS: {log.error}"] if log.error else []
    return ", ".join(parts)


def _etcd(etcd: Any) -> str:
    if not etcd.reachable:
        return f"NOT REACHABLE at {', '.join(etcd.endpoints) or 'no endpoint'}: {etcd.error or 'no answer'}"
    parts = [f"ok, {etcd.version}, {len(etcd.endpoints)} endpoint{'s' if len(etcd.endpoints) != 1 else ''}"]
    parts += [f"leader {etcd.leader}"] if etcd.leader else []
    parts.append(size(etcd.db_size_bytes))
    parts += [f"ALARMS {', '.join(etcd.alarms)}"] if etcd.alarms else []
    return ", ".join(parts)


def _replicas(answer: Any, wide: bool) -> list[list[object]]:
    return [
        [
            replica.name,
            replica.address,
            ("leader" if replica.leader else "follower") + (" (asked)" if replica.self else ""),
            replica.seq or None,
            compared_text(replica.comparison, replica.state_digest, wide),
        ]
        for replica in answer.replicas
    ]
