"""`kilim log show`: events of the past with what each one changed.

Easy to get wrong: what an event replaced is not in it, so the state before --from is rebuilt, but only for the forms
that say it. Where nothing that is held leads to that state, `changes` is null: unknown, not none.
"""

import json
import sys
import time
from typing import Any, NamedTuple

import click

from kilim.cli.command import Command
from kilim.cli.duration import DURATION
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.history.options import SourceOptions, history_options, open_history
from kilim.cli.history.source import HistorySource
from kilim.cli.output import output_option, to_yaml


class Shown(NamedTuple):
    """What is to be shown: events `first` .. `last` that are about the object, if one is wanted."""

    first: int
    last: int
    wanted: Any


@click.command(
    "show",
    cls=Command,
    example="""
    kilim log show --from 1 --to 20
    kilim log show --since 1h --object shop/db -o wide
    kilim log show --from 2026-11-22T14:00:00Z --segments /var/backups/kilim -o json | jq .changes
    """,
)
@click.option("--from", "first", metavar="SEQ|TIME", help="First event. [default: the first that is held]")
@click.option("--to", "last", metavar="SEQ|TIME", help="Last event. [default: the last there is]")
@click.option("--since", metavar="DURATION|TIME", help="Instead of --from: not older than 30m, 12h, or a time.")
@click.option("--object", "about", metavar="[KIND/]NS/NAME", help="Only what changed this, or was caused by it.")
@output_option("table", "wide", "json", "yaml")
@history_options
def show(
    first: str | None,
    last: str | None,
    since: str | None,
    about: str | None,
    output: str | None,
    source: SourceOptions,
) -> None:
    """Print the events of the log: who, when, why and what; with -o wide, json or yaml also what that changed."""
    from kilim.cli.history.objects import parse_object

    if first is not None and since is not None:
        raise BadUsage("give either --from or --since")
    _check_order(first, last)
    wanted = parse_object(about) if about else None
    history = open_history(source)
    shown = Shown(_first(history, first, since), _last(history, last), wanted)
    if last is not None and first is not None and shown.last < shown.first <= history.span().last_seq:
        raise BadUsage(f"--to: must be at least --from ({first})")
    _print(history, shown, output)


def _check_order(first: str | None, last: str | None) -> None:
    """What can be seen without asking anybody."""
    for name, text in (("--from", first), ("--to", last)):
        if text is not None and text.isdecimal() and int(text) < 1:
            raise BadUsage(f"{name}: must be at least 1")
    if first and last and first.isdecimal() and last.isdecimal() and int(last) < int(first):
        raise BadUsage(f"--to: must be at least --from ({first})")


def _first(history: HistorySource, first: str | None, since: str | None) -> int:
    from kilim.cli.history.rebuild import last_until

    held = history.span().first_seq
    if first and first.isdecimal():
        if int(first) < held:
            raise Failure(f"--from: event {first} is no longer held, the first is event {held}")
        return int(first)
    if first is None and since is None:
        return held
    before = last_until(history, (_time(first) if first else _ago(str(since))) - 1)
    if before is None and first:
        raise Failure(f"--from: what was at {first} is no longer held, the first is event {held}")
    return held if before is None else before + 1


def _time(text: str) -> int:
    from kilim.cli.history.times import parse_milliseconds

    try:
        return parse_milliseconds(text)
    except ValueError:
        raise BadUsage(f'--from: "{text}" must be an event\'s number or a time such as 2026-11-22T14:03:00Z') from None


def _ago(text: str) -> int:
    from kilim.cli.history.times import parse_milliseconds

    try:
        return parse_milliseconds(text)
    except ValueError:
        return int((time.time() - float(DURATION.convert(text, None, None))) * 1000)


def _last(history: HistorySource, last: str | None) -> int:
    from kilim.cli.history.rebuild import seq_at

    head = history.span().last_seq
    return head if last is None else min(seq_at(history, last), head)


def _print(history: HistorySource, shown: Shown, output: str | None) -> None:
    from kilim.cli.history.entries import HEADING, entries, entry_data, entry_lines

    wide = output == "wide"
    found = entries(history, shown.first, shown.last, shown.wanted, with_changes=output not in {None, "table"})
    out = sys.stdout  # not flushed line by line, as click.echo would
    if output in {None, "table", "wide"}:
        out.write(f"{HEADING}\n")
    for entry in found:
        match output:
            case "json":
                out.write(json.dumps(entry_data(entry), ensure_ascii=False) + "\n")
            case "yaml":
                out.write(f"---\n{to_yaml(entry_data(entry))}\n")
            case _:
                out.writelines(f"{line}\n" for line in entry_lines(entry, wide=wide))
    out.flush()
