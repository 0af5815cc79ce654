"""Rows of a node's tables one by one: in canonical order, as text, and what differs between two sets of tables.

Easy to get wrong: here every key and value is a tuple of ints, so that all four tables are walked alike; a policy row's
key begins with its subject. `COLUMNS` name the cells of a row's text, the first `KEY_CELLS` of them its key.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kilim.model.address import format_ip
from kilim.model.tables import (
    ADMIN,
    ALLOW,
    AUDITED,
    BASELINE,
    DENY,
    FOREIGN_KEY,
    INGRESS,
    NORMAL,
    PASS,
    Tables,
    action_of,
)

RowKey = tuple[int, ...]
RowValue = tuple[int, ...]

TABLES = ("ipcache", "endpoints", "subjects", "policy")
COLUMNS: dict[str, tuple[str, ...]] = {
    "ipcache": ("prefix", "identity", "tunnel_endpoint"),
    "endpoints": ("ip", "endpoint_id", "identity", "flags"),
    "subjects": ("identity", "flags"),
    "policy": ("subject", "direction", "peer", "protocol", "port", "port_prefix_len", "verdict"),
}
TIER_NAMES = {ADMIN: "admin", NORMAL: "normal", BASELINE: "baseline"}
ACTION_NAMES = {ALLOW: "allow", DENY: "deny", PASS: "pass"}
KEY_CELLS = {"ipcache": 1, "endpoints": 1, "subjects": 1, "policy": 6}


class RowChange(NamedTuple):
    """One row before and after; None where there is none."""

    table: str
    key: RowKey
    old: RowValue | None
    new: RowValue | None


def rows_of(tables: Tables, table: str) -> dict[RowKey, RowValue]:
    """In canonical order. Raises KeyError for a table that is none."""
    match table:
        case "ipcache":
            return dict(sorted(tables.ipcache.items()))
        case "endpoints":
            return {(ip,): row for ip, row in sorted(tables.endpoints.items())}
        case "subjects":
            return {(identity,): (flags,) for identity, flags in sorted(tables.subjects.items())}
        case "policy":
            return {
                (subject, *key): (verdict,)
                for subject, rows in sorted(tables.policy.items())
                for key, verdict in sorted(rows.items())
            }
    raise KeyError(table)


def endpoint_flags(flags: int) -> str:
    return {0: "-", AUDITED: "audit"}.get(flags, f"{flags:#x}")


def differences(old: Tables, new: Tables) -> Iterator[RowChange]:
    """In order of table and key."""
    for table in TABLES:
        before, after = rows_of(old, table), rows_of(new, table)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield RowChange(table, key, before.get(key), after.get(key))


def cells(table: str, key: RowKey, value: RowValue) -> list[str]:
    """The row as text, one cell per column."""
    match table:
        case "ipcache":
            (ip, prefix_len), (identity, tunnel) = key, value
            return [f"{format_ip(ip)}/{prefix_len}", str(identity), format_ip(tunnel) if tunnel else "-"]
        case "endpoints":
            endpoint_id, identity, flags = value
            return [format_ip(key[0]), str(endpoint_id), str(identity), endpoint_flags(flags)]
        case "policy":
            subject, direction, *rest, ports, tier = key
            bits = str(ports) if ports < FOREIGN_KEY else f"key/{ports - FOREIGN_KEY}"
            return [str(subject), way_text(direction, tier), *map(str, rest), bits, value_text(value[0])]
    return [str(number) for number in (*key, *value)]


def way_text(direction: int, tier: int) -> str:
    """`ingress`, `admin-ingress`"""
    word = "ingress" if direction == INGRESS else "egress"
    return word if tier == NORMAL else f"{TIER_NAMES.get(tier, str(tier))}-{word}"


def value_text(value: int) -> str:
    """`allow`, `deny@63937` with its precedence"""
    name = ACTION_NAMES.get(action_of(value), str(value))
    return f"{name}@{value >> 2}" if value >> 2 else name
