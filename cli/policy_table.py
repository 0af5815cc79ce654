"""The table of `kilim policy get`: each policy with what it selects, the rows it makes, and since when it is so."""

import json
from collections.abc import Sequence
from typing import Any

from kilim.cli.explanation import since_cells, since_data
from kilim.cli.history.backwards import things_since
from kilim.cli.history.source import HistorySource
from kilim.cli.table import table
from kilim.model.explain import PolicyName
from kilim.model.focus import Focus, Since, Thing
from kilim.model.policy_use import PolicyUse, policy_uses
from kilim.model.rows import TIER_NAMES
from kilim.model.state import State, policy_key
from kilim.model.tables import NORMAL

HEADERS = ("NAMESPACE", "NAME", "KIND", "TIER", "PRIORITY", "ENDPOINTS", "ROWS")
WIDE = ("SUBJECTS", "ROWS BY NODE", "EVENT", "TIME", "ACTOR", "CAUSE")


def chosen(state: State, name: str | None, namespace: str | None) -> list[PolicyUse]:
    return [
        use for use in policy_uses(state) if name in (None, use.name.name) and namespace in (None, use.name.namespace)
    ]


def manifest(state: State, name: PolicyName) -> Any:
    return json.loads(state.policies[policy_key(*name)].manifest_json)


def as_text(history: HistorySource, state: State, uses: Sequence[PolicyUse], wide: bool) -> str:
    known = _known(history, state, uses) if wide else {}
    rows = [_cells(use) + (_wide_cells(use, known) if wide else ()) for use in uses]
    return table(HEADERS + (WIDE if wide else ()), rows)


def as_data(history: HistorySource, state: State, uses: Sequence[PolicyUse]) -> list[dict[str, Any]]:
    known = _known(history, state, uses)
    return [
        {
            **use.name._asdict(),
            "tier": TIER_NAMES[use.tier],
            "priority": None if use.tier == NORMAL else use.priority,
            "endpoints": use.endpoints,
            "subjects": use.subjects,
            "rows": use.rows.total(),
            "rowsByNode": dict(sorted(use.rows.items())),
            **since_data(known, use.name),
        }
        for use in uses
    ]


def _known(history: HistorySource, state: State, uses: Sequence[PolicyUse]) -> dict[Thing, Since]:
    return things_since(history, state.seq, Focus(frozenset(), frozenset()), [use.name for use in uses])


def _cells(use: PolicyUse) -> tuple[object, ...]:
    kind, namespace, name = use.name
    priority = "-" if use.tier == NORMAL else use.priority
    return namespace, name, kind, TIER_NAMES[use.tier], priority, use.endpoints, use.rows.total()


def _wide_cells(use: PolicyUse, known: dict[Thing, Since]) -> tuple[object, ...]:
    return use.subjects, dict(use.rows), *since_cells(known, use.name)
