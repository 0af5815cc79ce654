"""`kilim health status`: whom one node reaches, by which path and how fast, as its agent probes it."""

from typing import Any

import click

from kilim.cli.agent_socket import ask, socket_of, socket_options
from kilim.cli.command import Command, Group
from kilim.cli.failure import FAILED, BadUsage
from kilim.cli.output import output_option, plain, print_data
from kilim.cli.table import age, table
from kilim.v1 import agent_pb2 as pb

TARGETS = {"ICMP": "ICMP to stack", "HTTP": "HTTP to agent"}
TARGET_WIDTH = 15


@click.group("health", cls=Group)
def health() -> None:
    """Connectivity between nodes and between their health endpoints."""


@health.command(
    cls=Command,
    example="""
    kilim health status --node node1
    kilim health status --probe --succinct
    kilim health status -o json
    """,
)
@click.option("--probe", is_flag=True, help="Probe every node first, and wait for it.")
@click.option("--succinct", is_flag=True, help="One node a line.")
@click.option("--verbose", is_flag=True, help="Also when each path was probed and last answered.")
@output_option("json", "yaml")
@socket_options
@click.pass_context
def status(
    context: click.Context,
    probe: bool,
    succinct: bool,
    verbose: bool,
    output: str | None,
    node: str | None,
    agent_socket: str | None,
) -> None:
    """Whom one node reaches: each other node and its health endpoint, by ICMP and HTTP, with the time it took.

    A path is unreachable once three probes in a row were not answered. Exit status 1 where any is.
    """
    if succinct and verbose:
        raise BadUsage("--succinct: goes without --verbose")
    request = pb.HealthRequest(probe=probe)
    answer = ask(socket_of(node, agent_socket), lambda stub, timeout: stub.Health(request, timeout=timeout))
    if output is not None:
        print_data(plain(answer), output)
    else:
        click.echo(_succinct(answer) if succinct else _in_full(answer, verbose))
    context.exit(FAILED if any(path.state == "unreachable" for each in answer.nodes for path in each.paths) else 0)


def _in_full(answer: Any, verbose: bool) -> str:
    own = ", ".join(answer.endpoint_ips) or "none"
    lines = [f"Node:          {answer.node} (health endpoint: {own})"]
    lines.append(f"Reachable:     {_reachable(answer)}, each probed every {age(answer.interval_ms)}")
    for node in answer.nodes:
        lines.append(f"  {node.name}:")
        shown = None
        for path in node.paths:
            if (path.endpoint, path.ip) != shown:
                shown = path.endpoint, path.ip
                lines.append(f"    {'Endpoint' if path.endpoint else 'Host'} connectivity to {path.ip}:")
            lines.append(f"      {TARGETS[path.protocol] + ':':{TARGET_WIDTH}} {_result(path, verbose)}")
    return "\n".join(lines)


def _reachable(answer: Any) -> str:
    return f"{sum(_of(each.paths) == 'reachable' for each in answer.nodes)}/{len(answer.nodes)} nodes"


def _result(path: Any, verbose: bool) -> str:
    if path.state == "unknown" and not path.error:
        text = "not probed yet"
    elif path.error:
        last = f", last answered {age(path.last_success_ms)} ago" if path.last_success_ms >= 0 else ", never answered"
        text = f"{path.state.upper() if path.state == 'unreachable' else path.state}: {path.error}{last}"
    else:
        text = f"OK, RTT={rtt(path.latency_ns)}"
    if verbose and path.last_probe_ms >= 0:
        text += f" (probed {age(path.last_probe_ms)} ago, {path.failures} failures in a row)"
    return text


def rtt(latency_ns: int) -> str:
    return f"{latency_ns / 1000:.0f}µs" if latency_ns < 10_000_000 else f"{latency_ns / 1e6:.1f}ms"


def _succinct(answer: Any) -> str:
    rows = [
        [node.name, *(cell for endpoint in (False, True) for cell in _part(node, endpoint))] for node in answer.nodes
    ]
    return table(["NODE", "HOST", "RTT", "ENDPOINT", "RTT"], rows)


def _part(node: Any, endpoint: bool) -> tuple[str | None, str | None]:
    """What its state is, and the longest of its latencies."""
    paths = [path for path in node.paths if path.endpoint is endpoint]
    if not paths:
        return None, None
    slowest = max(path.latency_ns for path in paths)
    return _of(paths), rtt(slowest) if slowest else None


def _of(paths: Any) -> str:
    found = {path.state for path in paths}
    return "unreachable" if "unreachable" in found else "reachable" if "reachable" in found else "unknown"
