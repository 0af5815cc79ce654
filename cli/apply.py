"""`kilim apply`: all documents of all files go in one request; all are applied or none."""

import getpass
import os
import socket
from collections.abc import Iterable
from typing import Any

import click

from kilim.cli.client import connect, server_option
from kilim.cli.command import Command
from kilim.cli.kinds import reference
from kilim.cli.manifest import in_namespace, read_documents
from kilim.cli.output import output_option, plain, print_data
from kilim.cli.wait import wait_for, wait_options
from kilim.v1 import controlplane_pb2 as pb

DRY_RUN_NOTE = " (server dry run)"
CLIENT_DRY_RUN_NOTE = " (client dry run)"


@click.command(
    cls=Command,
    example="""
    kilim apply -f policy.yaml --wait
    kilim apply -f manifests/ -R -n shop --dry-run=server
    kilim apply -f manifests/ --dry-run=client -o name
    cat policy.yaml | kilim apply -f -
    """,
)
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="What to apply.")
@click.option("-R", "--recursive", is_flag=True, help="Of a folder, what is in its folders too.")
@click.option("-n", "--namespace", metavar="NS", help="Of objects that name none. [default: default]")
@wait_options
@click.option(
    "--dry-run", type=click.Choice(["none", "server", "client"]), default="none", show_default=True,
    help="server: say what would change only. client: check the files here, without a server.",
)  # fmt: skip
@output_option("json", "yaml", "name")
@server_option
def apply(
    files: tuple[str, ...], recursive: bool, namespace: str | None, wait: bool, timeout: float, dry_run: str,
    output: str, servers: str,
) -> None:  # fmt: skip
    """Create or change resources from YAML; all that is given, or none of it.

    A file, with all its documents, may hold up to 1,000,000 keys, values, lists and objects.
    """
    documents = in_namespace(read_documents(files, recursive), namespace)
    if dry_run == "client":
        from kilim.cli.dry_run import checked_here

        print_results(checked_here(documents), output, CLIENT_DRY_RUN_NOTE)
        return
    client = connect(servers)
    request = pb.ApplyRequest(
        manifests=[pb.Manifest(json=document.json, source=document.source) for document in documents],
        actor=actor(),
        dry_run=dry_run == "server",
    )
    response = client.resources("Apply", request)
    print_results(response, output, DRY_RUN_NOTE if request.dry_run else "")
    if wait and not request.dry_run:
        wait_for(client, response.seq, timeout)


def actor() -> str:
    """Who asks, as the log records it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        user = str(os.getuid())
    return f"cli:{user}@{socket.gethostname()}"


def print_results(response: Any, output: str | None, note: str = "") -> None:
    match output:
        case "json" | "yaml":
            print_data(plain(response), output)
        case "name":
            _echo(reference(result.kind, result.name) for result in response.results)
        case _:
            _echo(f"{reference(result.kind, result.name)} {result.action}{note}" for result in response.results)


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
