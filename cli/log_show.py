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
from kilim.cli.duration import parse_duration
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
        raise BadUsage("--since: goes without --from")
    _check_order(first, last)
    wanted = parse_object(about) if about else None
    history = open_history(source)
    shown = Shown(_first(history, first, since), _last(history, last), wanted)
    if last is not None and first is not None and shown.last < shown.first <= history.span().last_seq:
        raise BadUsage(f"--to: must be at least --from ({first})")
    if not _print(history, shown, output) and about:
        raise Failure(f"--object: no event from {shown.first} to {shown.last} is about {about}")


def _check_order(first: str | None, last: str | None) -> None:
    """What can be seen without asking anybody."""
    from kilim.cli.history.rebuild import check_event

    for name, text in (("--from", first), ("--to", last)):
        if text is not None and text.isdecimal():
            check_event(int(text), name)
    if first is None or last is None:
        return
    if first.isdecimal() and last.isdecimal():
        is_after = int(first) > int(last)
    else:
        is_after = not first.isdecimal() and not last.isdecimal() and _time(first, "--from") > _time(last, "--to")
    if is_after:
        raise BadUsage(f"--to: must be at least --from ({first})")


def _first(history: HistorySource, first: str | None, since: str | None) -> int:
    from kilim.cli.history.rebuild import last_until, not_yet

    span = history.span()
    held = span.first_seq
    if first and first.isdecimal():
        if int(first) < held:
            raise Failure(f"--from: event {first} is no longer held, the first is event {held}")
        if int(first) > span.last_seq:
            raise not_yet(int(first), span.last_seq, "--from")
        return int(first)
    if first is None and since is None:
        return held
    before = last_until(history, (_time(first, "--from") if first else _ago(str(since))) - 1)
    if before is None and first:
        raise Failure(f"--from: what was at {first} is no longer held, the first is event {held}")
    return held if before is None else before + 1


def _time(text: str, option: str) -> int:
    from kilim.cli.history.rebuild import bad_moment
    from kilim.cli.history.times import parse_milliseconds

    try:
        return parse_milliseconds(text)
    except ValueError:
        raise bad_moment(text, option) from None


def _ago(text: str) -> int:
    """Of a plain number nobody knows whether it means seconds or an event."""
    from kilim.cli.history.times import parse_milliseconds

    try:
        return parse_milliseconds(text)
    except ValueError:
        seconds = None if text.replace(".", "").isdecimal() else parse_duration(text)
    if seconds is None:
        raise BadUsage(f'--since: "{text}" must be a duration with its unit, such as 30m or 1h30m, or a time') from None
    return int((time.time() - seconds) * 1000)


def _last(history: HistorySource, last: str | None) -> int:
    """A number beyond the end is no error: the range ends where the log does."""
    from kilim.cli.history.rebuild import seq_at

    head = history.span().last_seq
    if last is None or (last.isdecimal() and int(last) > head):
        return head
    return seq_at(history, last, "--to")


def _print(history: HistorySource, shown: Shown, output: str | None) -> bool:
    """Whether there was anything to print; the heading waits where there may be nothing."""
    from kilim.cli.history.entries import HEADING, entries

    found = entries(history, shown.first, shown.last, shown.wanted, with_changes=output not in {None, "table"})
    out = sys.stdout  # not flushed line by line, as click.echo would
    heading = f"{HEADING}\n" if output in {None, "table", "wide"} else ""
    any_found = False
    if shown.wanted is None:
        out.write(heading)
    for entry in found:
        if not any_found and shown.wanted is not None:
            out.write(heading)
        any_found = True
        out.write(_text(entry, output))
    out.flush()
    return any_found


def _text(entry: Any, output: str | None) -> str:
    from kilim.cli.history.entries import entry_data, entry_lines

    match output:
        case "json":
            return json.dumps(entry_data(entry), ensure_ascii=False) + "\n"
        case "yaml":
            return f"---\n{to_yaml(entry_data(entry))}\n"
    return "".join(f"{line}\n" for line in entry_lines(entry, wide=output == "wide"))
