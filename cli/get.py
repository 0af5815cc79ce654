"""`kilim get`: lists and single resources, in kubectl's forms."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click

from kilim.cli.client import Client, connect, server_option
from kilim.cli.columns import columns
from kilim.cli.command import Command
from kilim.cli.failure import BadUsage
from kilim.cli.kinds import ALL, BY_NAME, KINDS, Kind, kind_of, kinds_of, namespace_of, reference
from kilim.cli.output import output_option, print_data
from kilim.cli.table import table
from kilim.v1 import controlplane_pb2 as pb

Object = dict[str, Any]


def _kinds() -> str:
    words = (f"{kind.words[0]} ({kind.words[2]})" if kind.words[2:] else kind.words[0] for kind in KINDS)
    return f"Kinds: {', '.join(words)}."


@click.command(
    cls=Command,
    epilog=_kinds(),
    example="""
    kilim get networkpolicies -A
    kilim get netpol db -n shop -o yaml
    kilim get pods -n shop -o wide
    kilim get netpol,cnp -A
    kilim get all -n shop
    """,
)
@click.argument("kind", metavar="all|KIND[,KIND…][/NAME]")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("-n", "--namespace", metavar="NS", help="Namespace. [default: default]")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@output_option("yaml", "json", "wide", "name")
@server_option
def get(
    kind: str, names: tuple[str, ...], namespace: str | None, all_namespaces: bool,
    output: str | None, servers: str | None,
) -> None:  # fmt: skip
    """List resources of a kind, or of several, or show one.

    "all" is every kind that has namespaces; with -A also those that have none, but no settings and no identities.

    What -o yaml prints of policies, groups of CIDRs, services, endpointslices, namespaces and pods can be applied
    again.
    """
    if all_namespaces and (names or "/" in kind):
        raise BadUsage("-A: a NAME is in one namespace; give -n instead")
    if all_namespaces and namespace is not None:
        raise BadUsage("-A: goes without -n")
    if "," in kind or kind.lower() == ALL:
        _get_several(kind, names, namespace, all_namespaces, output, servers)
        return
    word, _, slash_name = kind.partition("/")
    known = kind_of(word)
    where = namespace_of(known, namespace, all_namespaces)
    client = connect(servers)
    wanted = (slash_name, *names) if slash_name else names
    if wanted:
        print_one_or_more([get_object(client, known, where, name) for name in wanted], known, output)
    else:
        print_list(list_objects(client, known, where), known, output, where)


def _get_several(
    words: str, names: tuple[str, ...], namespace: str | None, everywhere: bool, output: str | None, servers: str | None
) -> None:
    """A table for each kind that there is something of; as data one list."""
    if names or "/" in words:
        raise BadUsage("KIND: a NAME is of one kind; give KIND NAME")
    kinds = [(kind, namespace_of(kind, namespace, everywhere)) for kind in kinds_of(words, everywhere)]
    client = connect(servers)
    found = [(kind, where, list_objects(client, kind, where)) for kind, where in kinds]
    everything = [item for _, _, items in found for item in items]
    if not everything or output in {"json", "yaml"}:
        print_list(everything, kinds[0][0], output, "" if everywhere else namespace or "default")
        return
    is_first = True
    for kind, where, items in found:
        if items:
            click.echo("", nl=not is_first and output != "name")
            print_list(items, kind, output, where, of_several=True)
            is_first = False


def get_object(client: Client, kind: Kind, namespace: str, name: str) -> Object:
    answer = client.resources("Get", pb.GetRequest(kind=kind.name, namespace=namespace, name=name))
    return json.loads(answer.json)  # type: ignore[no-any-return]


def list_objects(client: Client, kind: Kind, namespace: str = "") -> list[Object]:
    answer = client.resources("List", pb.ListRequest(kind=kind.name, namespace=namespace))
    return [json.loads(item.json) for item in answer.items]


def print_one_or_more(objects: Sequence[Object], kind: Kind, output: str | None) -> None:
    if len(objects) == 1 and output in {"json", "yaml"}:
        print_data(objects[0], output)
    else:
        print_list(objects, kind, output, "its own")


def print_list(
    objects: Sequence[Object], kind: Kind, output: str | None, namespace: str, *, of_several: bool = False
) -> None:
    """`namespace` empty: the list is of all namespaces, so the table says which. One of several: names say the kind."""
    match output:
        case "json" | "yaml":
            print_data({"apiVersion": "v1", "kind": "List", "items": list(objects)}, output)
        case "name":
            for item in objects:
                click.echo(reference(kind.name, item["metadata"]["name"]))
        case _ if not objects:
            where = f" in {namespace} namespace" if namespace else ""
            click.echo(f"No resources found{where}.", err=True)
        case _:
            shown = columns(kind, wide=output == "wide", with_namespace=kind.namespaced and not namespace)
            if of_several:
                shown = [replace(c, cell=partial(_reference, kind)) if c.header == "NAME" else c for c in shown]
            click.echo(table([c.header for c in shown], [[c.cell(item) for c in shown] for item in objects]))


def _reference(kind: Kind, item: Object) -> str:
    return reference(kind.name, item["metadata"]["name"])


def list_kind(name: str, output: str | None, servers: str | None) -> None:
    """All of a kind, in all namespaces."""
    kind = BY_NAME[name]
    print_list(list_objects(connect(servers), kind), kind, output, "")
