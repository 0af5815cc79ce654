"""The tables of a node as pure rows, and the difference between two of them.

Row by row:
  ipcache   (ip, prefix_len)  -> (identity, tunnel_endpoint)    0 = on this node or not tunnelled
  endpoints ip                -> (endpoint_id, identity)        endpoints of this node only
  subjects  identity          -> flags                          one row per identity of a local endpoint
  policy    subject -> {(direction, peer, protocol, port, port_prefix_len): verdict}
IPs are ints in host byte order. What is desired depends on the state alone (I4); local inputs are joined later (I13).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from kilim.model.digest import Multiset, hash_bytes

INGRESS = 0
EGRESS = 1
ENFORCE_INGRESS = 1
ENFORCE_EGRESS = 2
ALLOW = 1
DENY = 2
ANY_PROTOCOL = 0

K = TypeVar("K")
V = TypeVar("V")


class PolicyKey(NamedTuple):
    direction: int
    peer: int  # identity; 0 = any
    protocol: int  # IANA number; 0 = any (then port 0/0)
    port: int
    port_prefix_len: int  # 0..16


PolicyRows = dict[PolicyKey, int]
IpcacheKey = tuple[int, int]
IpcacheValue = tuple[int, int]
EndpointValue = tuple[int, int]


@dataclass(slots=True)
class Tables:
    """All desired rows of one node."""

    ipcache: dict[IpcacheKey, IpcacheValue] = field(default_factory=dict)
    endpoints: dict[int, EndpointValue] = field(default_factory=dict)
    subjects: dict[int, int] = field(default_factory=dict)
    policy: dict[int, PolicyRows] = field(default_factory=dict)

    def digest(self) -> bytes:
        """32 bytes over all rows, recomputed from scratch (the running one is `TablesDigest`)."""
        running = TablesDigest()
        running.apply(Tables(), TablesDelta.between(Tables(), self))
        return running.digest()


@dataclass(slots=True)
class TablesDelta:
    """What changes: the new value per key, None = the row goes. A changed subject carries its complete new rows."""

    ipcache: dict[IpcacheKey, IpcacheValue | None] = field(default_factory=dict)
    endpoints: dict[int, EndpointValue | None] = field(default_factory=dict)
    subjects: dict[int, int | None] = field(default_factory=dict)
    policy: dict[int, PolicyRows | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ipcache or self.endpoints or self.subjects or self.policy)

    @staticmethod
    def between(old: Tables, new: Tables) -> "TablesDelta":
        return TablesDelta(
            _dict_delta(old.ipcache, new.ipcache),
            _dict_delta(old.endpoints, new.endpoints),
            _dict_delta(old.subjects, new.subjects),
            _dict_delta(old.policy, new.policy),
        )

    def apply_to(self, tables: Tables) -> None:
        """Bring `tables` to the new rows, in place."""
        _apply(tables.ipcache, self.ipcache)
        _apply(tables.endpoints, self.endpoints)
        _apply(tables.subjects, self.subjects)
        _apply(tables.policy, self.policy)

    def merge(self, later: "TablesDelta") -> None:
        """Add a later delta on top of this one: the newest value per key stands."""
        self.ipcache.update(later.ipcache)
        self.endpoints.update(later.endpoints)
        self.subjects.update(later.subjects)
        self.policy.update(later.policy)


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


# One entry as `hash_entry` lays it out: table, length of the key, key, value; packed in one go.
_pack_ipcache = struct.Struct(">7sIIBII").pack
_pack_endpoint = struct.Struct(">9sIIHI").pack
_pack_subject = struct.Struct(">8sIIB").pack
_pack_policy = struct.Struct(">6sIIBIBHBB").pack


def _hash_ipcache(key: IpcacheKey, value: IpcacheValue) -> int:
    return hash_bytes(_pack_ipcache(b"ipcache", 5, *key, *value))


def _hash_endpoint(ip: int, value: EndpointValue) -> int:
    return hash_bytes(_pack_endpoint(b"endpoints", 4, ip, *value))


def _hash_subject(identity: int, flags: int) -> int:
    return hash_bytes(_pack_subject(b"subjects", 4, identity, flags))


def _hash_policy_rows(subject: int, rows: PolicyRows) -> int:
    return sum(hash_bytes(_pack_policy(b"policy", 13, subject, *key, verdict)) for key, verdict in rows.items())


class TablesDigest:
    """Running digest over the rows of one node; lengths are fixed by the packing above."""

    def __init__(self) -> None:
        self._multiset = Multiset()

    def digest(self) -> bytes:
        return self._multiset.digest()

    def apply(self, before: Tables, delta: TablesDelta) -> None:
        """Follow `delta`; `before` are the rows it is about to change (call it before `apply_to`)."""
        self._multiset.add(
            _shift(before.ipcache, delta.ipcache, _hash_ipcache)
            + _shift(before.endpoints, delta.endpoints, _hash_endpoint)
            + _shift(before.subjects, delta.subjects, _hash_subject)
            + _shift(before.policy, delta.policy, _hash_policy_rows)
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
