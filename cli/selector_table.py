"""The table of `kilim policy selectors`, in the manner of `cilium policy selectors list`."""

from typing import Any

from kilim.cli.table import table
from kilim.model.policy_use import selector_uses
from kilim.model.state import State

HEADERS = ("SELECTOR", "IDENTITIES", "SUBJECTS OF", "PEERS OF")


def as_text(state: State, wide: bool) -> str:
    rows = [
        (
            use.selector,
            (", ".join(map(str, use.identities)) if wide else len(use.identities)),
            ", ".join(map(str, use.subjects_of)),
            ", ".join(map(str, use.peers_of)),
        )
        for use in selector_uses(state)
    ]
    return table(HEADERS, rows)


def as_data(state: State) -> list[dict[str, Any]]:
    return [
        {
            "selector": use.selector,
            "identities": list(use.identities),
            "subjectsOf": [each._asdict() for each in use.subjects_of],
            "peersOf": [each._asdict() for each in use.peers_of],
        }
        for use in selector_uses(state)
    ]
