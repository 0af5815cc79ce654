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
}


@click.group(cls=Group)
def bpf() -> None:
    """The BPF tables of one node."""


def _add(word: str, name: str, what: str) -> None:
    group = click.Group(word, help=what)
    example = f"kilim bpf {word} list --node node1\nkilim bpf {word} list --agent-socket {DEFAULT_SOCKET} -o json"
    desired = click.Option(["--desired"], is_flag=True, help="What the log asks for, instead of what the kernel holds.")
    parameters: list[click.Parameter] = [] if name == "ct" else [desired]

    def run(node: str | None, agent_socket: str | None, output: str | None, desired: bool = False) -> None:
        show_table(name, socket_of(node, agent_socket), kernel=not desired, output=output)

    command = Command("list", callback=run, params=parameters, help=what, example=example)
    group.add_command(socket_options(output_option("json", "yaml", "wide")(command)))
    bpf.add_command(group)


def show_table(name: str, socket: str, *, kernel: bool, output: str | None) -> None:
    request = pb.DumpTableRequest(table=name, kernel=kernel)
    answer = ask(socket, lambda stub, timeout: stub.DumpTable(request, timeout=timeout))
    if output in {"json", "yaml"}:
        print_data([typed_row(answer.columns, row.cells) for row in answer.rows], output)
    else:
        click.echo(table([column.upper() for column in answer.columns], [list(row.cells) for row in answer.rows]))


for _word, (_name, _what) in TABLES.items():
    _add(_word, _name, _what)
