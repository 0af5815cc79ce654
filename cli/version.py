"""`kilim version`."""

from importlib import metadata

import click

from kilim.cli.command import Command


def installed_version() -> str:
    return metadata.version("kilim")


@click.command(cls=Command, example="kilim version")
def version() -> None:
    """Print the version."""
    click.echo(f"kilim {installed_version()}")
