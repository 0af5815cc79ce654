"""`kilim log verify`: proves that the log is whole, or says where it is not (`kilim verify` looks at the kernels)."""

import click

from kilim.cli.command import Command
from kilim.cli.failure import Failure
from kilim.cli.history.options import SourceOptions, history_options, open_apart
from kilim.cli.output import output_option, print_data


@click.command(
    "verify",
    cls=Command,
    example="""
    kilim log verify
    kilim log verify --segments /var/backups/kilim
    kilim log verify --segments /var/backups/kilim --etcd-endpoints http://192.0.2.1:2379
    """,
)
@output_option("json", "yaml")
@history_options
def verify(output: str | None, source: SourceOptions) -> None:
    """Prove that the log is whole, or say where it is not.

    The chain is followed over every event that etcd and segments hold; where both have an event they are compared, byte
    for byte; every snapshot must be what the events give.
    """
    from kilim.cli.history.verification import joined, problem_lines, verify_log

    live, segments = open_apart(source, stored=True)
    name = f"etcd /kilim/v1/{source.cluster}/log/" if source.etcd_endpoints else "etcd"
    findings = verify_log(live, name, segments)
    span = joined(findings.spans)
    problems = list(problem_lines(findings))
    if output is not None:
        print_data(
            {
                "ok": not problems,
                "first_seq": span.first_seq,
                "last_seq": span.last_seq,
                "chain": span.chain.hex(),
                "snapshots": findings.snapshots,
                "segments": findings.segments,
                "problems": [
                    {"seq": seq, "problem": text} for (seq, _), text in zip(findings.problems, problems, strict=True)
                ],
            },
            output,
        )
    if len(problems) > 1:
        for text in problems:
            click.echo(f"broken: {text}", err=True)
        raise Failure(f"{len(problems)} things are wrong, the first at event {findings.problems[0][0]}")
    if problems:
        raise Failure(problems[0])
    if output is None:
        click.echo(
            f"ok: events {span.first_seq}..{span.last_seq}, chain {span.chain.hex()}, "
            f"{findings.snapshots} snapshots, {findings.segments} segments"
        )
