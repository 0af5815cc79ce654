"""`kilim lab run` and `kilim lab probe`: traffic with a verdict."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from kilim.cli.failure import FAILED, BadUsage
from kilim.cli.lab_command import LabCommand, lab_option
from kilim.cli.output import output_option, print_data
from kilim.cli.progress import steps
from kilim.cli.table import table
from kilim.model.protocols import PROTOCOLS

ECHO_REQUEST = 8


@click.command(
    cls=LabCommand,
    example="kilim lab run SCENARIO.yaml\nkilim lab run cases/*.json --model -o json",
)
@click.argument("scenarios", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SCENARIO…")
@click.option("--model", is_flag=True, help="By the desired tables alone: no kernel, no root, no processes.")
@output_option("json")
@click.pass_context
def run(context: click.Context, scenarios: tuple[Path, ...], model: bool, output: str | None) -> None:
    """Play scenarios and compare verdicts; exit status 1 where any differs from what it expects."""
    with steps("playing") as progress:
        right = asyncio.run(_play(scenarios, model, output, progress))
    context.exit(0 if right else FAILED)


async def _play(scenarios: Sequence[Path], model: bool, output: str | None, progress: Any) -> bool:
    from kilim.lab.run import matched, run_files

    right = True
    async with aclosing(run_files(scenarios, model, progress)) as documents:  # type: ignore[type-var]
        async for document in documents:
            click.echo(json.dumps(document, ensure_ascii=False) if output == "json" else render(document, scenarios))
            right = right and matched(document)
    return right


def render(document: dict[str, Any], scenarios: Sequence[Path]) -> str:
    lines = [] if document["steps"] else [f"{document.get('file', scenarios[0])}: no steps"]
    for number, step in enumerate(document["steps"], 1):
        lines.append(
            f"{document.get('file', scenarios[0])}: step {number}: {step['matched']} of {step['total']} as expected"
        )
        lines += [f"  refused: {index}: {message}" for index, message in step.get("refused", {}).items()]
        wrong = [probe for probe in step["probes"] if probe.get("expect") not in {None, probe["got"]}]
        if wrong:
            lines.append(table(["  FROM", "TO", "PORT", "EXPECTED", "GOT", "WHY"], [_row(probe) for probe in wrong]))
    return "\n".join(lines)


def _row(probe: dict[str, Any]) -> list[object]:
    port = f"{probe.get('port')}/{probe.get('protocol', 'TCP')}"
    why = probe.get("message") or probe.get("drop_reason")
    return [f"  {probe['from']}", probe["to"], port, probe.get("expect"), probe["got"], why]


@click.command(
    cls=LabCommand,
    example="kilim lab probe shop/frontend shop/api -p 8080\nkilim lab probe shop/api node:node2 --protocol ICMP",
)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="Port; of ICMP the type. [default for ICMP: 8, echo]")
@click.option(
    "--protocol", type=click.Choice((*PROTOCOLS, "ICMP"), case_sensitive=False), default="TCP", show_default=True,
    help="Of the traffic.",
)  # fmt: skip
@click.option(
    "--ip-family",
    type=click.Choice(["IPv4", "IPv6"]),
    default=None,
    help="Of the addresses. [default: each that both have]",
)
@click.option("--expect", type=click.Choice(["allow", "deny"]), help="Exit status 1 where it comes out otherwise.")
@lab_option
@output_option("json", "yaml")
@click.pass_context
def probe(
    context: click.Context, source: str, target: str, port: int | None, protocol: str,
    ip_family: str | None, expect: str | None, lab: str, output: str | None,
) -> None:  # fmt: skip
    """Send traffic FROM one place TO another, and say what became of it.

    A place is NAMESPACE/POD, node:NAME, ext:NAME, host, remote-node, or (TO) an IP.
    """
    from kilim.lab import api

    if port is None and protocol != "ICMP":
        raise BadUsage(f"--port: must be given for {protocol}")
    asked = ECHO_REQUEST if port is None else port
    answer = asyncio.run(api.probe(lab, source, target, asked, protocol, ip_family or ""))
    if output:
        print_data(answer, output)
    else:
        why = answer.get("message") or answer["drop_reason"]
        click.echo(answer["got"] + (f": {why}" if why else ""))
    wrong = answer["got"] == "error" if expect is None else answer["got"] != expect
    context.exit(FAILED if wrong else 0)
