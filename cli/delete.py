"""`kilim delete`: by the files that created things, or by kind and name."""

import click

from kilim.cli.apply import CLIENT_DRY_RUN_NOTE, DRY_RUN_NOTE, actor, print_results
from kilim.cli.client import connect, server_option
from kilim.cli.command import Command
from kilim.cli.duration import DURATION
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.kinds import BY_NAME, kind_of, namespace_of
from kilim.cli.manifest import Document, in_namespace, read_documents
from kilim.cli.output import output_option
from kilim.cli.wait import wait_for
from kilim.v1 import controlplane_pb2 as pb


@click.command(
    cls=Command,
    example="""
    kilim delete -f policy.yaml
    kilim delete networkpolicy db -n shop --wait
    kilim delete -f manifests/ --dry-run=server
    """,
)
@click.argument("words", nargs=-1, metavar="[KIND NAME…]")
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Delete what these describe.")
@click.option("-R", "--recursive", is_flag=True, help="Of a folder, what is in its folders too.")
@click.option("-n", "--namespace", metavar="NS", help="Of NAME, and of objects that name none. [default: default]")
@click.option("--ignore-not-found", is_flag=True, help="Do not mind what is not there.")
@click.option("--wait", is_flag=True, help="Return when every node that is up enforces the change.")
@click.option("--timeout", type=DURATION, default="10s", show_default=True, help="How long --wait may take.")
@click.option(
    "--dry-run",
    type=click.Choice(["none", "client", "server"]),
    default="none",
    show_default=True,
    help="Say what would change only; client: without a server, so not whether it is there.",
)
@output_option("json", "yaml", "name")
@server_option
def delete(
    words: tuple[str, ...], files: tuple[str, ...], recursive: bool, namespace: str | None, ignore_not_found: bool,
    wait: bool, timeout: float, dry_run: str, output: str | None, servers: str | None,
) -> None:  # fmt: skip
    """Delete resources by file or by name; all that is given, or none of it."""
    if bool(words) == bool(files):
        raise BadUsage("-f: give either -f FILE or KIND NAME")
    refs = refs_of_files(files, recursive, namespace) if files else _refs_of_words(words, namespace)
    if dry_run == "client":
        from kilim.cli.dry_run import deleted_here

        print_results(deleted_here(refs), output, CLIENT_DRY_RUN_NOTE)
        return
    client = connect(servers)
    request = pb.DeleteRequest(refs=refs, actor=actor(), ignore_not_found=ignore_not_found, dry_run=dry_run == "server")
    response = client.resources("Delete", request)
    print_results(response, output, DRY_RUN_NOTE if request.dry_run else "")
    if wait and not request.dry_run:
        wait_for(client, response.seq, timeout)


def _refs_of_words(words: tuple[str, ...], namespace: str | None) -> list[pb.ResourceRef]:
    if "/" in words[0]:
        pairs = [word.partition("/")[::2] for word in words]
    else:
        pairs = [(words[0], name) for name in words[1:]]
    if not pairs or not all(name for _, name in pairs):
        raise BadUsage("NAME: say what to delete, KIND NAME")
    refs = []
    for word, name in pairs:
        kind = kind_of(word)
        refs.append(pb.ResourceRef(kind=kind.name, namespace=namespace_of(kind, namespace, False), name=name))
    return refs


def refs_of_files(
    files: tuple[str, ...], recursive: bool = False, namespace: str | None = None
) -> list[pb.ResourceRef]:
    return [_ref_of(document) for document in in_namespace(read_documents(files, recursive), namespace)]


def _ref_of(document: Document) -> pb.ResourceRef:
    metadata = document.body.get("metadata")
    kind, name = document.body.get("kind"), metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(kind, str) or not kind:
        raise Failure(f"{document.source}: kind: must be a string")
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        raise Failure(f"{document.source}: metadata.name: must be a string")
    known = BY_NAME.get(kind)
    namespace = str(metadata.get("namespace") or ("default" if known is None or known.namespaced else ""))
    if known is not None and not known.namespaced:
        namespace = ""
    return pb.ResourceRef(kind=kind, namespace=namespace, name=name, source=document.source)
