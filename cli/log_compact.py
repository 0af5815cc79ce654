"""`kilim log compact`: what the leader does now and then to keep the log in bounds, at once; and out of a full etcd.

Easy to get wrong: etcd's file shrinks by --defragment alone; without it what was freed is written to again.
"""

from typing import Any

import click

from kilim.cli.apply import actor
from kilim.cli.client import connect, server_option
from kilim.cli.command import Command
from kilim.cli.failure import Failure
from kilim.cli.output import output_option, plain, print_data
from kilim.cli.table import size, table
from kilim.v1 import controlplane_pb2 as pb

PATIENCE_S = 900.0


@click.command(cls=Command, example="kilim log compact\nkilim log compact --defragment")
@click.option("--defragment", is_flag=True, help="Shrink etcd's files too, member by member, and end a quota alarm.")
@output_option("table", "json", "yaml")
@server_option
def compact(defragment: bool, output: str | None, servers: str | None) -> None:
    """Take a snapshot, trim what retention lets go, compact etcd.

    With --defragment each member of etcd takes no writes while it is defragmented, about 3 s per GiB; where etcd is at
    its quota, this is what makes it take writes again.
    """
    request = pb.CompactRequest(defragment=defragment, actor=actor())
    answer = connect(servers).log("Compact", request, timeout_s=PATIENCE_S)
    if output in {"json", "yaml"}:
        print_data(plain(answer), str(output))
    else:
        click.echo(_text(answer))
    failed = [member for member in answer.members if member.error]
    if failed:
        said = "; ".join(f"{member.endpoint}: {member.error}" for member in failed)
        raise Failure(f"not every member of etcd was reached: {said}")


def _text(answer: Any) -> str:
    lines = [
        f"newest snapshot    {f'of event {answer.snapshot_seq}' if answer.snapshot_seq else 'none'}",
        f"first event held   {answer.first_seq}",
        f"etcd               compacted to revision {answer.revision}"
        + (", quota alarm is off" if answer.disarmed else ""),
        *([f"nothing trimmed    {answer.untrimmed}"] if answer.untrimmed else []),
        "",
        table(
            ("MEMBER", "BEFORE", "AFTER"),
            ((one.endpoint, size(one.before_bytes), size(one.after_bytes)) for one in answer.members),
        ),
    ]
    return "\n".join(lines)
