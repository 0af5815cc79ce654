"""`kilim lab kill|pause|resume|restart|partition|heal`: what a lab is for.

PROCESS is `replica1`, `etcd1`, or a node's name for its agent; MEMBER is one of those or `ext:NAME`.
"""

import signal

import click

from kilim.cli.failure import BadUsage
from kilim.cli.lab_command import LabCommand, lab_option


@click.command(cls=LabCommand, example="kilim lab kill replica1\nkilim lab kill node2 --signal TERM")
@click.argument("process")
@click.option("--signal", "signal_name", default="KILL", show_default=True, help="Which signal.")
@lab_option
def kill(process: str, signal_name: str, lab: str) -> None:
    """Kill a process, by default with SIGKILL."""
    from kilim.lab import api

    click.echo(f"{process} (pid {api.kill(lab, process, _signal(signal_name))}) got SIG{signal_name.upper()}")


def _signal(name: str) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise BadUsage(f'--signal: there is no signal "{name}"') from None


@click.command(cls=LabCommand, example="kilim lab pause replica2")
@click.argument("process")
@lab_option
def pause(process: str, lab: str) -> None:
    """Stop a process with SIGSTOP; `resume` lets it go on."""
    from kilim.lab import api

    click.echo(f"{process} (pid {api.pause(lab, process)}) is paused")


@click.command(cls=LabCommand, example="kilim lab resume replica2")
@click.argument("process")
@lab_option
def resume(process: str, lab: str) -> None:
    """Let a paused process go on."""
    from kilim.lab import api

    click.echo(f"{process} (pid {api.resume(lab, process)}) goes on")


@click.command(cls=LabCommand, example="kilim lab restart node1")
@click.argument("process")
@lab_option
def restart(process: str, lab: str) -> None:
    """End a process where it runs, and start it again."""
    from kilim.lab import api

    click.echo(f"{process} runs again (pid {api.restart(lab, process)})")


@click.command(cls=LabCommand, example="kilim lab partition node2\nkilim lab partition node2 replica1")
@click.argument("member")
@click.argument("other", required=False)
@lab_option
def partition(member: str, other: str | None, lab: str) -> None:
    """Cut MEMBER off from all the others, or from OTHER alone."""
    from kilim.lab import api

    api.partition(lab, member, other)
    click.echo(f"{member} is cut off from {other or 'all others'}")


@click.command(cls=LabCommand, example="kilim lab heal\nkilim lab heal node2")
@click.argument("member", required=False)
@click.argument("other", required=False)
@lab_option
def heal(member: str | None, other: str | None, lab: str) -> None:
    """Undo partitions: of MEMBER from OTHER, all of MEMBER, or every one."""
    from kilim.lab import api

    api.heal(lab, member, other)
    between = f"between {member} and {other}" if other else f"of {member}" if member else "of all members"
    click.echo(f"the connections {between} are whole")
