"""`kilim log export`: the log into files that need no etcd to be read (docs/segments.md)."""

from pathlib import Path

import click

from kilim.cli.command import Command
from kilim.cli.failure import BadUsage
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.output import output_option, print_data


@click.command(
    "export",
    cls=Command,
    example="""
    kilim log export /var/backups/kilim
    kilim log export /var/backups/kilim --etcd-endpoints http://192.0.2.1:2379
    """,
)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--from", "first", type=click.IntRange(min=1), metavar="SEQ", help="First event. [default: the first that is held]"
)
@click.option(
    "--to", "last", type=click.IntRange(min=1), metavar="SEQ", help="Last event. [default: the last there is]"
)
@output_option("json", "yaml")
@history_options
def export(directory: Path, first: int | None, last: int | None, output: str | None, source: SourceOptions) -> None:
    """Copy the log into segment files.

    They are read with --segments DIR and restored with `kilim log restore`. Run again, it verifies what is in DIR and
    adds what is missing. Commits are copied whole, as etcd holds them; where the log does not begin with event 1, the
    state before its first event is written beside them.
    """
    from kilim.cli.history.export import export_history

    if first is not None and last is not None and last < first:
        raise BadUsage(f"--to: must be at least --from ({first})")
    done = export_history(open_history(source, stored=True), directory, first, last)
    span = done.span
    if output is not None:
        print_data(
            {
                "first_seq": span.first_seq,
                "last_seq": span.last_seq,
                "chain": span.chain.hex(),
                "written": [path.name for path in (*done.segments, *done.snapshots)],
            },
            output,
        )
        return
    if not done.segments and not done.snapshots:
        click.echo(f"nothing to add: {directory} holds events {span.first_seq} to {span.last_seq}, all verified")
        return
    for path in (*done.segments, *done.snapshots):
        click.echo(str(path))
    click.echo(f"{directory} holds events {span.first_seq} to {span.last_seq}, chain {span.chain.hex()}, all verified")
