"""`kilim simulate`: whose verdict would change if manifests were applied, or deleted; nothing is applied.

Easy to get wrong: with --exit-code a failure exits 2, so that 1 always means "it would change something".
"""

import sys
from pathlib import Path
from typing import Any

import click

from kilim.cli.apply import print_results
from kilim.cli.command import Command
from kilim.cli.failure import FAILED, BadUsage, Failure
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, print_data


@click.command(
    cls=Command,
    example="""
    kilim simulate -f policy.yaml
    kilim simulate -f policy.yaml --delete --at 2026-11-22T14:03:00Z
    hubble observe -o json | kilim simulate -f policy.yaml --against -
    """,
)
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="What to try.")
@click.option("--delete", is_flag=True, help="Try to delete what the files describe, instead of to apply it.")
@click.option("--pairs", is_flag=True, help="Look at every pair of workloads. [the default]")
@click.option("--against", metavar="FILE|-", help="Look at these flows only, as Hubble prints them with -o json.")
@click.option("--at", metavar="SEQ|TIME", help="In the state as of this event. [default: the last there is]")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if a verdict would change, with 2 on failure.")
@output_option("json", "yaml")
@history_options
def simulate(
    files: tuple[str, ...], delete: bool, pairs: bool, against: str | None, at: str | None, exit_code: bool,
    output: str | None, source: SourceOptions,
) -> None:  # fmt: skip
    """Say which connections would be allowed or denied otherwise, before anything is applied."""
    if pairs and against is not None:
        raise BadUsage("--pairs: goes without --against")
    if against == "-" and "-" in files:
        raise BadUsage("--against: - is standard input, and so is that of -f")
    try:
        changes = _simulate(files, delete, against, at, output, source)
    except click.ClickException as failure:
        raise BadUsage(failure.format_message()) if exit_code else failure from None
    if changes and exit_code:
        raise SystemExit(FAILED)


def _simulate(
    files: tuple[str, ...], delete: bool, against: str | None, at: str | None, output: str | None, source: SourceOptions
) -> bool:
    """Prints; whether anything would change."""
    from kilim.cli import simulation
    from kilim.cli.history.options import in_words
    from kilim.cli.history.rebuild import seq_at, state_at
    from kilim.controlplane.decide.refusal import Refusal
    from kilim.controlplane.decide.simulate import state_after
    from kilim.model.comparison import Comparison
    from kilim.model.flip_groups import flip_groups

    command = _command(files, delete)
    seen = _read_flows(against) if against is not None else None
    history = in_words(lambda: open_history(source))
    before = in_words(lambda: state_at(history, None if at is None else seq_at(history, at, "--at")))
    try:
        after, results = state_after(before, command)
    except Refusal as refusal:
        raise Failure(refusal.message) from None
    comparison = Comparison(before, after)
    data: dict[str, Any] = {"seq": before.seq}
    if seen is not None:
        found = _flips(before, comparison, seen)
        data |= simulation.flow_data(*found, seen)
        lines = simulation.flow_lines(*found, seen)
    else:
        groups = flip_groups(comparison)
        data["changes"] = simulation.group_data(comparison, groups)
        lines = simulation.group_lines(comparison, groups)
    if output:
        data["results"] = [vars_of(result) for result in results.results]
        print_data(data, output)
    else:
        print_results(results, None, " (simulated)")
        for line in lines:
            click.echo(line)
    return bool(data["changes"])


def vars_of(result: Any) -> dict[str, str]:
    return {name: getattr(result, name) for name in ("kind", "namespace", "name", "action")}


def _command(files: tuple[str, ...], delete: bool) -> Any:
    from kilim.cli.delete import refs_of_files
    from kilim.cli.manifest import read_documents
    from kilim.controlplane.decide.command import ApplyObjects, DeleteObjects, Document, Ref
    from kilim.model.invalid import Invalid
    from kilim.model.resource import parse_manifest

    if delete:
        refs = refs_of_files(files)
        return DeleteObjects(tuple(Ref(ref.kind, ref.namespace, ref.name, ref.source) for ref in refs))
    documents = []
    for document in read_documents(files):
        try:
            documents.append(Document(parse_manifest(document.body).noun, document.source))
        except Invalid as error:
            raise Failure(f"{document.source}: {error.path or 'manifest'}: {error.rule}") from None
    return ApplyObjects(tuple(documents))


def _read_flows(name: str) -> Any:
    from kilim.cli.flow_lines import read_flows

    if name == "-":
        return read_flows(sys.stdin, "standard input")
    try:
        with Path(name).open(encoding="utf-8") as lines:
            return read_flows(lines, name)
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Failure(f"{name}: not UTF-8 at byte {error.start}") from None


def _flips(before: Any, comparison: Any, seen: Any) -> tuple[list[Any], int]:
    """Flows whose verdict would change, most seen first, and how many could not be placed."""
    from kilim.model.flow_verdicts import FlowVerdicts

    verdicts = FlowVerdicts(before, comparison)
    judged = [(flow, count, verdicts.of(flow)) for flow, count in seen.flows.items()]
    flips = [each for each in judged if each[2] is not None and each[2].before != each[2].after]
    flips.sort(key=lambda each: (-each[1], each[0]))
    return flips, sum(found is None for _, _, found in judged)
