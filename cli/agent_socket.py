"""Asking the agent of this node, or of a node of the lab, over its Unix socket."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from kilim.cli.client import open_channel, refusal, why_unavailable
from kilim.cli.failure import BadUsage, Failure
from kilim.v1 import agent_pb2_grpc

DEFAULT_SOCKET = "/run/kilim/agent.sock"
CALL_S = 30.0

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def socket_options(command: F) -> F:
    """--node and --agent-socket."""
    node = click.option("--node", metavar="NODE", help="Node of the lab whose agent is asked.")
    socket = click.option(
        "--agent-socket", envvar="KILIM_AGENT_SOCKET", metavar="PATH",
        help=f"Unix socket of the agent. [default: {DEFAULT_SOCKET}]",
    )  # fmt: skip
    return node(socket(command))


def socket_of(node: str | None, agent_socket: str | None) -> str:
    if node and agent_socket:
        raise BadUsage("--agent-socket: goes without --node")
    if node is None:
        return agent_socket or DEFAULT_SOCKET
    from kilim.cli.lab_command import node_socket

    return node_socket(node)


def ask(socket: str, call: Callable[[Any, float], T]) -> T:
    """What `call(stub, timeout)` answers. Raises Failure."""
    if not Path(socket).exists():
        raise Failure(f"{socket}: no agent is listening there")
    try:
        with open_channel(f"unix:{socket}") as channel:
            return call(agent_pb2_grpc.AgentStub(channel), CALL_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise Failure(f"{socket}: the agent does not answer ({why_unavailable(error)})") from None
        raise refusal(socket, error) from None
