"""`kilim completion SHELL`: click's own completion, printed so that it can be sourced."""

import click
from click.shell_completion import get_completion_class

from kilim.cli.command import Command


@click.command(
    cls=Command,
    example="""
    source <(kilim completion bash)
    kilim completion fish > ~/.config/fish/completions/kilim.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "kilim", "_KILIM_COMPLETE").source())
