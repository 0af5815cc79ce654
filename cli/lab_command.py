"""What the commands of `kilim lab` have in common: whose lab, and errors of the lab as one line.

Imports nothing of the lab at the top, so that help and completion stay quick; each command imports what it runs.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kilim.cli.command import Command, Group
from kilim.cli.failure import BadUsage, Failure

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_LAB = "kilim"


class LabCommand(Command):
    """`BadInput` of the lab ends with status 2, every other `LabError` with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from kilim.lab.errors import BadInput, LabError

        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise BadUsage(str(error)) from None
        except LabError as error:
            raise Failure(str(error)) from None


class LabGroup(Group):
    command_class = LabCommand


def named_lab_option(function: F) -> F:
    """For what makes or removes a lab: never a lab that just happens to be up."""
    return click.option(
        "--name", "lab", metavar="LAB", envvar="KILIM_LAB", show_envvar=True, default=DEFAULT_LAB, show_default=True,
        help="Which lab.",
    )(function)  # fmt: skip


def lab_option(function: F) -> F:
    """For what plays with a lab: the one that every other command would speak to."""
    return click.option(
        "--name",
        "lab",
        metavar="LAB",
        envvar="KILIM_LAB",
        show_envvar=True,
        default=_chosen_lab,
        show_default="kilim, else the only lab that is up",
        help="Which lab.",
    )(function)


def _chosen_lab() -> str:
    from kilim.lab.context import chosen_lab
    from kilim.lab.errors import BadInput

    try:
        return chosen_lab() or DEFAULT_LAB
    except BadInput as error:
        raise BadUsage(str(error)) from None


def pod_key(pod: str, namespace: str | None) -> str:
    """`shop/db`, or `db` with -n shop."""
    if "/" in pod:
        return pod
    if namespace is None:
        raise BadUsage(f'POD: "{pod}" must be NAMESPACE/NAME, or give -n NAMESPACE')
    return f"{namespace}/{pod}"


def node_socket(node: str) -> str:
    """The socket of a node's agent, in the lab that every other command would choose."""
    from kilim.lab.commands import agent_socket
    from kilim.lab.context import chosen_lab
    from kilim.lab.errors import BadInput, LabError
    from kilim.lab.topology import load_lab

    try:
        name = chosen_lab()
        if name is None:
            raise Failure("--node: no lab is up; give the agent's socket (--agent-socket)")
        lab = load_lab(name)
        return str(agent_socket(lab, lab.node(node).name))
    except BadInput as error:
        raise BadUsage(f"--node: {error}") from None
    except LabError as error:
        raise Failure(f"--node: {error}") from None
