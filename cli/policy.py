"""`kilim policy list|get|trace|selectors`: what policies there are, what they come to, what they say of a pair."""

from typing import Any

import click

from kilim.cli.client import server_option
from kilim.cli.command import Group
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.get import list_kind
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, print_data
from kilim.cli.trace import trace

_at_option = click.option("--at", metavar="SEQ|TIME", help="As of this event. [default: the last there is]")


@click.group(cls=Group)
def policy() -> None:
    """Policies of all kinds and namespaces, and what they say."""


policy.add_command(trace)


@policy.command("list", example="kilim policy list")
@output_option("yaml", "json", "wide", "name")
@server_option
def policy_list(output: str | None, servers: str | None) -> None:
    """Every NetworkPolicy, with what it selects; `kilim policy get` has all kinds."""
    list_kind("NetworkPolicy", output, servers)


@policy.command("get", example="kilim policy get -o wide\nkilim policy get shop/db -o yaml\nkilim policy get --at 1200")
@click.argument("name", required=False, metavar="[[NS/]NAME]")
@click.option("-n", "--namespace", metavar="NS", help="Only of this namespace. [default: all]")
@_at_option
@output_option("wide", "yaml", "json")
@history_options
def policy_get(
    name: str | None, namespace: str | None, at: str | None, output: str | None, source: SourceOptions
) -> None:
    """Policies of every kind: what they select, the rows they make on each node, and who changed them last.

    With a NAME, -o yaml and -o json print the manifests.
    """
    from kilim.cli import policy_table

    if name and "/" in name:
        if namespace is not None:
            raise BadUsage("-n: goes with a NAME alone")
        namespace, _, name = name.partition("/")
    history, state = _state(source, at)
    chosen = policy_table.chosen(state, name, namespace)
    if not chosen:
        where = f" in {namespace} namespace" if namespace else ""
        raise (
            Failure(f'no policy "{name}"{where} as of event {state.seq}')
            if name
            else Failure(f"no policies{where} as of event {state.seq}")
        )
    if name and output in {"yaml", "json"}:
        manifests = [policy_table.manifest(state, each.name) for each in chosen]
        print_data(manifests[0] if len(manifests) == 1 else _list_of(manifests), output)
    elif output in {"yaml", "json"}:
        print_data(policy_table.as_data(history, state, chosen), output)
    else:
        click.echo(policy_table.as_text(history, state, chosen, wide=output == "wide"))


@policy.command("selectors", example="kilim policy selectors\nkilim policy selectors -o wide")
@_at_option
@output_option("wide", "yaml", "json")
@history_options
def selectors(at: str | None, output: str | None, source: SourceOptions) -> None:
    """Every selector that policies use, services and API servers too: the identities it selects, and who uses it."""
    from kilim.cli import selector_table

    _, state = _state(source, at)
    if output in {"yaml", "json"}:
        print_data(selector_table.as_data(state), output)
    else:
        click.echo(selector_table.as_text(state, wide=output == "wide"))


def _state(source: SourceOptions, at: str | None) -> tuple[Any, Any]:
    from kilim.cli.history.rebuild import seq_at, state_at

    history = open_history(source)
    return history, state_at(history, None if at is None else seq_at(history, at, "--at"))


def _list_of(items: list[Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}
