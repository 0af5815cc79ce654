"""The tables of a node as pure rows, and the difference between two of them.

Row by row:
  ipcache   (ip, prefix_len)  -> (identity, tunnel_endpoint)    0 = on this node or not tunnelled
  endpoints ip                -> (endpoint_id, identity, flags) endpoints of this node only; AUDITED or 0
  subjects  identity          -> flags                          one row per identity of a local endpoint
  policy    subject -> {(direction, peer, protocol, port, port_prefix_len, tier): value}
A value is an action and above it a precedence, in NORMAL 0 but of a row that passes on: of two rows that cover a packet
the one with the greater value counts, in every tier.
IPs are those of model/address.py. What is desired depends on the state alone (I4); local inputs are joined later (I13).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from kilim.model.address import IPV6, from_mapped, from_mapped_or_zeros, mapped, mapped_or_zeros
from kilim.model.digest import Multiset, hash_bytes

INGRESS = 0
EGRESS = 1
NORMAL = 0
ADMIN = 1
BASELINE = 2
TIERS = (ADMIN, NORMAL, BASELINE)  # in the order in which they speak
ENFORCE_INGRESS = 1
ENFORCE_EGRESS = 2
UNKNOWN_SUBJECT = 64  # of a subject's flags: the log does not know the identity, so nothing passes (I9)
PASS = 0  # on to the next tier; in NORMAL no policy can say it, but resolve.py rule 7 does
ALLOW = 1
DENY = 2
AUDITED = 1  # of an endpoint: what its policy refuses passes all the same, and is recorded
ANY_PROTOCOL = 0
TOP_PRECEDENCE = 0xFFFF
# A kernel's policy entry that matches on other bits than its fields imply is read as a row of its own: its
# port_prefix_len is this and the number of bits of the whole key (0..128). Nothing that is desired has such rows.
FOREIGN_KEY = 100

K = TypeVar("K")
V = TypeVar("V")


class PolicyKey(NamedTuple):
    direction: int
    peer: int  # identity; 0 = any
    protocol: int  # IANA number; 0 = any (then port 0/0)
    port: int
    port_prefix_len: int  # 0..16; more is no row of ours, see FOREIGN_KEY
    tier: int = NORMAL


PolicyRows = dict[PolicyKey, int]
RowChanges = dict[PolicyKey, int | None]  # None: the row goes
IpcacheKey = tuple[int, int]
IpcacheValue = tuple[int, int]


class EndpointValue(NamedTuple):
    endpoint_id: int
    identity: int
    flags: int = 0  # AUDITED


def tier_flag(tier: int, direction: int) -> int:
    """Of a subject's flags: whether the tier speaks in that direction. Of NORMAL they are the ENFORCE_ ones."""
    return 1 << (direction | tier << 1)


def direction_flags(direction: int) -> int:
    """Of all tiers."""
    return sum(tier_flag(tier, direction) for tier in TIERS)


def row_value(action: int, precedence: int) -> int:
    return precedence << 2 | action


def action_of(value: int) -> int:
    return value & 3


@dataclass(slots=True)
class Tables:
    """All desired rows of one node."""

    ipcache: dict[IpcacheKey, IpcacheValue] = field(default_factory=dict)
    endpoints: dict[int, EndpointValue] = field(default_factory=dict)
    subjects: dict[int, int] = field(default_factory=dict)
    policy: dict[int, PolicyRows] = field(default_factory=dict)

    def copy(self) -> "Tables":
        """Which stays as it is when these go on."""
        policy = {subject: dict(rows) for subject, rows in self.policy.items()}
        return Tables(dict(self.ipcache), dict(self.endpoints), dict(self.subjects), policy)

    def digest(self) -> bytes:
        """32 bytes over all rows, recomputed from scratch (the running one is `TablesDigest`)."""
        running = TablesDigest()
        running.apply(Tables(), TablesDelta.between(Tables(), self))
        return running.digest()


@dataclass(slots=True)
class TablesDelta:
    """What changes: the new value per key, None = the row goes. A changed subject has its complete new rows in
    `policy`, or in `rows` those alone that differ from what it had; never both."""

    ipcache: dict[IpcacheKey, IpcacheValue | None] = field(default_factory=dict)
    endpoints: dict[int, EndpointValue | None] = field(default_factory=dict)
    subjects: dict[int, int | None] = field(default_factory=dict)
    policy: dict[int, PolicyRows | None] = field(default_factory=dict)
    rows: dict[int, RowChanges] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ipcache or self.endpoints or self.subjects or self.policy or self.rows)

    @staticmethod
    def between(old: Tables, new: Tables) -> "TablesDelta":
        return TablesDelta(
            _dict_delta(old.ipcache, new.ipcache),
            _dict_delta(old.endpoints, new.endpoints),
            _dict_delta(old.subjects, new.subjects),
            _dict_delta(old.policy, new.policy),
        )

    def apply_to(self, tables: Tables) -> None:
        """Bring `tables` to the new rows, in place. They share no rows of policy with the delta then."""
        _apply(tables.ipcache, self.ipcache)
        _apply(tables.endpoints, self.endpoints)
        _apply(tables.subjects, self.subjects)
        for subject, rows in self.policy.items():
            set_policy_rows(tables.policy, subject, rows)
        for subject, changes in self.rows.items():
            change_policy_rows(tables.policy, subject, changes)


def set_policy_rows(policy: dict[int, PolicyRows], subject: int, rows: PolicyRows | None) -> None:
    """A copy of these, which may be none."""
    if rows:
        policy[subject] = dict(rows)
    else:
        policy.pop(subject, None)


def change_policy_rows(policy: dict[int, PolicyRows], subject: int, changes: RowChanges) -> None:
    """In place: a subject without rows is not in `policy`."""
    rows = policy.setdefault(subject, {})
    _apply(rows, changes)
    if not rows:
        del policy[subject]


def _dict_delta(old: dict[K, V], new: dict[K, V]) -> dict[K, V | None]:
    if not old:  # of a cold agent, with a row per endpoint of the cluster
        return dict(new)
    delta: dict[K, V | None] = {key: value for key, value in new.items() if old.get(key) != value}
    for key in old:
        if key not in new:
            delta[key] = None
    return delta


def _apply(target: dict[K, V], delta: dict[K, V | None]) -> None:
    for key, value in delta.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value


# A row as it is packed, and before it what makes an entry of it as `hash_entry` lays it out: table, length of the key.
_PACKING = {
    "ipcache": struct.Struct(">16sBI16s"),
    "endpoints": struct.Struct(">16sHIB"),
    "subjects": struct.Struct(">IB"),
    "policy": struct.Struct(">IBIBHBBI"),
}
_ENTRY = {
    "ipcache": b"ipcache\0\0\0\x05",
    "endpoints": b"endpoints\0\0\0\x04",
    "subjects": b"subjects\0\0\0\x04",
    "policy": b"policy\0\0\0\x0e",
}
# In the digest an address counts with the bytes of its family, so that rows of IPv4 count as they did before there was
# IPv6; an endpoint without flags as it did before there were any.
_IPV6_ENTRY = {
    "ipcache": b"ipcache\0\0\0\x11",
    "endpoints": b"endpoints\0\0\0\x10",
}
# A policy row of tier NORMAL with a value below 256 counts in the digest as it did before there were tiers, so that
# versions on either side agree on it: key without tier, value of one byte.
_PLAIN_ENTRY = b"policy\0\0\0\x0d"
_PLAIN = b"\0\0\0\0"  # tier and the upper bytes of the value
ROW_FORMAT = 2  # of what is packed so; another number with every change of _PACKING
ROW_BYTES = {table: packing.size for table, packing in _PACKING.items()}

_pack_lengths = struct.Struct(">BI").pack

# Both in one go.
_pack_ipcache = struct.Struct(">11sIBII").pack
_pack_endpoint = struct.Struct(">13sIHI").pack
_pack_flagged_endpoint = struct.Struct(">13sIHIB").pack
_pack_subject = struct.Struct(">12sIB").pack
_pack_policy = struct.Struct(">10sIBIBHBBI").pack
_pack_plain_policy = struct.Struct(">10sIBIBHBB").pack


def pack_rows(table: str, tables: Tables) -> bytes:
    """The rows of one table, one after the other, each of ROW_BYTES[table], in no particular order."""
    pack = _PACKING[table].pack
    match table:
        case "ipcache":
            return b"".join(
                [
                    pack(mapped(ip), length, identity, mapped_or_zeros(tunnel))
                    for (ip, length), (identity, tunnel) in tables.ipcache.items()
                ]
            )
        case "endpoints":
            return b"".join([pack(mapped(ip), *value) for ip, value in tables.endpoints.items()])
        case "subjects":
            return b"".join([pack(identity, flags) for identity, flags in tables.subjects.items()])
        case _:
            return b"".join(
                [
                    pack(subject, *key, verdict)
                    for subject, rows in tables.policy.items()
                    for key, verdict in rows.items()
                ]
            )


def unpack_rows(table: str, data: bytes, into: Tables) -> None:
    """Add packed rows to `into`. Raises ValueError for what is none."""
    if table not in _PACKING:
        raise ValueError(f"table: must be one of {', '.join(_PACKING)}, not {table!r}")
    if len(data) % ROW_BYTES[table]:
        raise ValueError(f"{table}: {len(data)} bytes are no whole rows of {ROW_BYTES[table]} bytes")
    rows = _PACKING[table].iter_unpack(data)
    match table:
        case "ipcache":
            into.ipcache.update(
                ((from_mapped(ip), length), (identity, from_mapped_or_zeros(tunnel)))
                for ip, length, identity, tunnel in rows
            )
        case "endpoints":
            into.endpoints.update((from_mapped(ip), EndpointValue(*value)) for ip, *value in rows)
        case "subjects":
            into.subjects.update(rows)
        case _:
            for subject, *key, verdict in rows:
                into.policy.setdefault(subject, {})[PolicyKey(*key)] = verdict


def hash_rows(table: str, data: bytes) -> int:
    """What packed rows add to the sum behind the digest of a node's tables (`Multiset`)."""
    rows = _PACKING[table].iter_unpack(data)
    match table:
        case "ipcache":
            return sum(
                hash_ipcache((from_mapped(ip), length), (identity, from_mapped_or_zeros(tunnel)))
                for ip, length, identity, tunnel in rows
            )
        case "endpoints":
            return sum(hash_endpoint(from_mapped(ip), EndpointValue(*value)) for ip, *value in rows)
        case "subjects":
            return sum(hash_subject(*row) for row in rows)
        case _:
            entry, size = _ENTRY[table], ROW_BYTES[table]
            packed = (data[start : start + size] for start in range(0, len(data), size))
            return sum(
                hash_bytes(_PLAIN_ENTRY + row[:13] + row[17:] if row[13:17] == _PLAIN else entry + row)
                for row in packed
            )


def hash_ipcache(key: IpcacheKey, value: IpcacheValue) -> int:
    if key[0] >= IPV6 or value[1] >= IPV6:
        entry = _ENTRY["ipcache"] if key[0] < IPV6 else _IPV6_ENTRY["ipcache"]
        return hash_bytes(entry + _family_bytes(key[0]) + _pack_lengths(key[1], value[0]) + _family_bytes(value[1]))
    return hash_bytes(_pack_ipcache(_ENTRY["ipcache"], *key, *value))


def hash_endpoint(ip: int, value: EndpointValue) -> int:
    if ip >= IPV6:
        packed = _PACKING["endpoints"].pack(mapped(ip), *value)
        return hash_bytes(_IPV6_ENTRY["endpoints"] + (packed if value.flags else packed[:-1]))
    if not value.flags:
        return hash_bytes(_pack_endpoint(_ENTRY["endpoints"], ip, *value[:2]))
    return hash_bytes(_pack_flagged_endpoint(_ENTRY["endpoints"], ip, *value))


def _family_bytes(ip: int) -> bytes:
    return (ip - IPV6).to_bytes(16, "big") if ip >= IPV6 else ip.to_bytes(4, "big")


def hash_subject(identity: int, flags: int) -> int:
    return hash_bytes(_pack_subject(_ENTRY["subjects"], identity, flags))


def hash_policy_row(subject: int, key: PolicyKey, verdict: int) -> int:
    if key.tier == NORMAL and verdict < 256:
        return hash_bytes(_pack_plain_policy(_PLAIN_ENTRY, subject, *key[:5], verdict))
    return hash_bytes(_pack_policy(_ENTRY["policy"], subject, *key, verdict))


class TablesDigest:
    """Running digest over the rows of one node; lengths are fixed by the packing above."""

    def __init__(self) -> None:
        self._multiset = Multiset()

    def digest(self) -> bytes:
        return self._multiset.digest()

    def apply(self, before: Tables, delta: TablesDelta) -> None:
        """Follow `delta`; `before` are the rows it is about to change (call it before `apply_to`)."""
        self._multiset.add(
            _shift(before.ipcache, delta.ipcache, hash_ipcache)
            + _shift(before.endpoints, delta.endpoints, hash_endpoint)
            + _shift(before.subjects, delta.subjects, hash_subject)
            + _shift_policy(before.policy, delta)
        )


def _shift(before: dict[K, V], delta: dict[K, V | None], hash_row: Callable[[K, V], int]) -> int:
    """By how much the sum of the hashes of one table moves."""
    total = 0
    if not before:
        return sum(hash_row(key, new) for key, new in delta.items() if new is not None)
    for key, new in delta.items():
        old = before.get(key)
        if old is not None:
            total -= hash_row(key, old)
        if new is not None:
            total += hash_row(key, new)
    return total


def _shift_policy(before: dict[int, PolicyRows], delta: TablesDelta) -> int:
    """Of a subject's rows only those that differ are hashed: often one of some thousand."""
    total = 0
    nothing: PolicyRows = {}
    for subject, rows in delta.policy.items():
        old, new = before.get(subject, nothing), rows or nothing
        total += sum(hash_policy_row(subject, key, verdict) for key, verdict in new.items() - old.items())
        total -= sum(hash_policy_row(subject, key, verdict) for key, verdict in old.items() - new.items())
    for subject, changes in delta.rows.items():
        total += _shift(before.get(subject, nothing), changes, partial(hash_policy_row, subject))
    return total
