"""`kilim bpf TABLE list`: what the maps of one node hold, asked of its agent."""

import click

from kilim.cli.agent_socket import DEFAULT_SOCKET, ask, socket_of, socket_options
from kilim.cli.command import Command, Group
from kilim.cli.output import output_option, print_data, typed_row
from kilim.cli.table import table
from kilim.v1 import agent_pb2 as pb

# the word on the command line → the table's name, what it is
TABLES = {
    "ipcache": ("ipcache", "Which identity and which node an address has."),
    "endpoint": ("endpoints", "The endpoints of this node."),
    "subject": ("subjects", "Identities of local endpoints: which directions are enforced."),
    "policy": ("policy", "Verdicts by subject, direction, peer, protocol and port."),
    "ct": ("ct", "Connections that the datapath tracks."),
    "nat": ("nat", "What masquerade has translated, by the way packets go."),
    "frag": ("frag", "Packets that come in fragments, by their first one."),
}


@click.group(cls=Group)
def bpf() -> None:
    """The BPF tables of one node."""


def _add(word: str, name: str, what: str) -> click.Group:
    group = click.Group(word, help=what)
    example = f"kilim bpf {word} list --node node1\nkilim bpf {word} list --agent-socket {DEFAULT_SOCKET} -o json"
    desired = click.Option(["--desired"], is_flag=True, help="What the log asks for, instead of what the kernel holds.")
    parameters: list[click.Parameter] = [] if name in ("ct", "nat", "frag") else [desired]

    def run(node: str | None, agent_socket: str | None, output: str | None, desired: bool = False) -> None:
        show_table(name, socket_of(node, agent_socket), kernel=not desired, output=output)

    command = Command("list", callback=run, params=parameters, help=what, example=example)
    group.add_command(socket_options(output_option("json", "yaml", "wide")(command)))
    bpf.add_command(group)
    return group


def show_table(name: str, socket: str, *, kernel: bool, output: str | None) -> None:
    request = pb.DumpTableRequest(table=name, kernel=kernel)
    answer = ask(socket, lambda stub, timeout: stub.DumpTable(request, timeout=timeout))
    if output in {"json", "yaml"}:
        print_data([typed_row(answer.columns, row.cells) for row in answer.rows], output)
    else:
        click.echo(table([column.upper() for column in answer.columns], [list(row.cells) for row in answer.rows]))


_groups = {word: _add(word, name, what) for word, (name, what) in TABLES.items()}


@_groups["ct"].command(
    cls=Command,
    example="""
    kilim bpf ct flush --node node1
    kilim bpf ct flush --ip 10.244.1.7 --ip 2001:db8::7
    """,
)
@click.option("--ip", "ips", multiple=True, help="Only those with this address at either end; may be given often.")
@socket_options
def flush(node: str | None, agent_socket: str | None, ips: tuple[str, ...]) -> None:
    """Forget connections.

    A connection that policy allows goes on: its next packet is judged as the first one. One that is masqueraded keeps
    its port of the node.
    """
    request = pb.FlushConnectionsRequest(ips=ips)
    socket = socket_of(node, agent_socket)
    answer = ask(socket, lambda stub, timeout: stub.FlushConnections(request, timeout=timeout))
    click.echo(f"{answer.removed} connections removed")
