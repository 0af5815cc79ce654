"""The table of `kilim policy selectors`, in the manner of `cilium policy selectors list`."""

from collections.abc import Sequence
from typing import Any

from kilim.cli.table import table
from kilim.model.policy_use import is_unused, selector_uses
from kilim.model.state import State

HEADERS = ("SELECTOR", "IDENTITIES", "SUBJECTS OF", "PEERS OF")


def as_text(state: State, wide: bool) -> str:
    rows = [
        (
            use.selector,
            _identities(state, use.identities, wide),
            ", ".join(map(str, use.subjects_of)),
            ", ".join(map(str, use.peers_of)),
        )
        for use in selector_uses(state)
    ]
    return table(HEADERS, rows)


def _identities(state: State, identities: Sequence[int], wide: bool) -> str:
    unused = [number for number in identities if is_unused(state, number)]
    if wide:
        return ", ".join(f"{number} (unused)" if number in unused else str(number) for number in identities)
    return f"{len(identities)}" + (f" ({len(unused)} unused)" if unused else "")


def as_data(state: State) -> list[dict[str, Any]]:
    return [
        {
            "selector": use.selector,
            "identities": list(use.identities),
            "unused": [number for number in use.identities if is_unused(state, number)],
            "subjectsOf": [each._asdict() for each in use.subjects_of],
            "peersOf": [each._asdict() for each in use.peers_of],
        }
        for use in selector_uses(state)
    ]
