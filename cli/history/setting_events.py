"""Which event gave each setting the value that it has, searched from the end of the log."""

from collections.abc import Collection
from typing import Any

from kilim.cli.history.rebuild import event_of
from kilim.cli.history.source import HistorySource
from kilim.cli.history.times import format_time
from kilim.v1.events_pb2 import Event

SEARCH_EVENTS = 4096
Key = tuple[str, str]
Found = tuple[int, Event] | int


def events_of_settings(source: HistorySource, wanted: Collection[Key]) -> dict[Key, Found]:
    """By (name, node); a number N: it was so at event N already, and nothing older is held."""
    span = source.span()
    found: dict[Key, Found] = {}
    high, width = span.last_seq, SEARCH_EVENTS
    while high >= span.first_seq and len(found) < len(wanted):
        low = max(high - width + 1, span.first_seq)
        newest: dict[Key, Found] = {}
        for commit in source.commits(low, high):
            for seq, record in enumerate(commit.records, commit.first_seq):
                if low <= seq <= high and any(name.encode() in record for name, _ in wanted):
                    event = event_of(record)
                    newest[event.setting_changed.setting.name, event.setting_changed.setting.node] = (seq, event)
        found |= {key: each for key, each in newest.items() if key in wanted and key not in found}
        high, width = low - 1, width * 4
    return {key: found.get(key, span.first_seq - 1) for key in wanted}


def since_cells(found: Found | None) -> list[str]:
    if found is None or isinstance(found, int):
        return ["" if found is None else f"<={found}", "", ""]
    seq, event = found
    return [str(seq), format_time(event.time_ns), event.actor]


def since_data(found: Found | None) -> dict[str, Any] | None:
    """Without a time where only the last possible event is known."""
    if found is None:
        return None
    if isinstance(found, int):
        return {"at_or_before": found}
    seq, event = found
    return {"seq": seq, "time": format_time(event.time_ns), "actor": event.actor, "cause": event.cause}
