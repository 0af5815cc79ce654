"""What is noted while faults rage, as values that go to a file and come back: one JSON line each.

Easy to get wrong: all times are CLOCK_MONOTONIC of this machine, so that notes of different writers can be ordered.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OK, REFUSED, NOT_DONE, UNKNOWN = "ok", "refused", "not done", "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One try of one change. `actor` is its own alone, so that its event can be found; of an endpoint, `actor` is the
    container. `body` is what was to be there, empty for a removal. `seq` 0: the answer had none."""

    actor: str
    kind: str
    namespace: str
    name: str
    body: str
    via: str
    asked_ns: int
    answered_ns: int
    outcome: str
    action: str = ""
    seq: int = 0
    detail: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Reading:
    """A list of one kind, and the seq at which it was said to be so."""

    via: str
    kind: str
    asked_ns: int
    answered_ns: int
    seq: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A follower got one commit; in one session each follows from the one before. `snapshot`: all up to last_seq."""

    follower: str
    session: int
    at_ns: int
    first_seq: int
    last_seq: int
    chain_before: bytes
    chain_after: bytes
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What a replica or an agent said of itself; `node` where it is an agent, whose tables have a digest."""

    source: str
    at_ns: int
    seq: int
    chain: bytes
    state_digest: bytes
    node: str = ""
    table_digest: bytes = b""
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Injected:
    fault: str
    victims: tuple[str, ...]
    began_ns: int
    ended_ns: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Logged:
    """One commit as the log holds it."""

    encoded: bytes


Record = Operation | Reading | Sighting | Sample | Injected | Logged
_TYPES: dict[str, type[Record]] = {
    each.__name__: each for each in (Operation, Reading, Sighting, Sample, Injected, Logged)
}
_HEX = {"chain_before", "chain_after", "chain", "state_digest", "table_digest", "encoded"}


def encode_record(record: Record) -> str:
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return json.dumps({"is": type(record).__name__} | {k: v.hex() if k in _HEX else v for k, v in fields.items()})


def decode_record(line: str) -> Record:
    fields = json.loads(line)
    kind: Any = _TYPES[fields.pop("is")]
    restored = {k: bytes.fromhex(v) if k in _HEX else tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    record: Record = kind(**restored)
    return record


def save_records(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        file.writelines(f"{encode_record(record)}\n" for record in records)


def load_records(path: Path) -> Iterator[Record]:
    with open(path) as file:
        for line in file:
            yield decode_record(line)
