"""`kilim bpf TABLE list`: what the maps of one node hold, asked of its agent."""

from pathlib import Path

import click
import grpc

from kilim.cli.client import open_channel, refusal, why_unavailable
from kilim.cli.command import Command, Group
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.output import output_option, print_data, typed_row
from kilim.cli.table import table
from kilim.v1 import agent_pb2 as pb
from kilim.v1 import agent_pb2_grpc

DEFAULT_SOCKET = "/run/kilim/agent.sock"
CALL_S = 30.0
# the word on the command line → the table's name, what it is
TABLES = {
    "ipcache": ("ipcache", "Which identity and which node an address has."),
    "endpoint": ("endpoints", "The endpoints of this node."),
    "subject": ("subjects", "Identities of local endpoints: which directions are enforced."),
    "policy": ("policy", "Verdicts by subject, direction, peer, protocol and port."),
    "ct": ("ct", "Connections that the datapath tracks."),
}


@click.group(cls=Group)
def bpf() -> None:
    """The BPF tables of one node."""


def _add(word: str, name: str, what: str) -> None:
    group = click.Group(word, help=what)
    example = f"kilim bpf {word} list --node node1\nkilim bpf {word} list --agent-socket {DEFAULT_SOCKET} -o json"
    desired = click.Option(["--desired"], is_flag=True, help="What the log asks for, instead of what the kernel holds.")
    node = click.Option(["--node"], metavar="NODE", help="Node of the lab whose agent is asked.")
    socket = click.Option(
        ["--agent-socket"], envvar="KILIM_AGENT_SOCKET", metavar="PATH",
        help=f"Unix socket of the agent. [default: {DEFAULT_SOCKET}]",
    )  # fmt: skip
    parameters: list[click.Parameter] = [node, socket, *([] if name == "ct" else [desired])]

    def run(node: str | None, agent_socket: str | None, output: str | None, desired: bool = False) -> None:
        show_table(name, _socket(node, agent_socket), kernel=not desired, output=output)

    command = Command("list", callback=run, params=parameters, help=what, example=example)
    group.add_command(output_option("json", "yaml", "wide")(command))
    bpf.add_command(group)


def show_table(name: str, socket: str, *, kernel: bool, output: str | None) -> None:
    answer = _ask(socket, pb.DumpTableRequest(table=name, kernel=kernel))
    if output in {"json", "yaml"}:
        print_data([typed_row(answer.columns, row.cells) for row in answer.rows], output)
    else:
        click.echo(table([column.upper() for column in answer.columns], [list(row.cells) for row in answer.rows]))


def _ask(socket: str, request: pb.DumpTableRequest) -> pb.DumpTableResponse:
    if not Path(socket).exists():
        raise Failure(f"{socket}: no agent is listening there")
    try:
        with open_channel(f"unix:{socket}") as channel:
            return agent_pb2_grpc.AgentStub(channel).DumpTable(request, timeout=CALL_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise Failure(f"{socket}: the agent does not answer ({why_unavailable(error)})") from None
        raise refusal(socket, error) from None


def _socket(node: str | None, agent_socket: str | None) -> str:
    if node and agent_socket:
        raise BadUsage("--agent-socket: goes without --node")
    if node is None:
        return agent_socket or DEFAULT_SOCKET
    from kilim.cli.lab_command import node_socket

    return node_socket(node)


for _word, (_name, _what) in TABLES.items():
    _add(_word, _name, _what)
