"""What is true at a sequence number: tables of canonical bytes with typed reading, indexes and a running digest.

A visitor would get wrong: values are kept as bytes and decoded on reading (an endpoint costs some 300 bytes), and
every mutation goes through `State.put`, which keeps digest and indexes and can be undone. `State.load` is the same for
many new entries at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from kilim.model import nouns
from kilim.model.digest import Multiset, hash_entry
from kilim.model.identity import Identity
from kilim.model.nouns import Endpoint, EndpointSlice, Namespace, Node, Noun, Pod, Policy, Service, Setting

Key = str | int
Labels = tuple[str, ...]
K = TypeVar("K", str, int)
V = TypeVar("V")


class Change(NamedTuple):
    """One entry of one table before and after, as canonical bytes; None where there is none."""

    table: str
    key: Key
    old: bytes | None
    new: bytes | None


def endpoint_key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"


def setting_key(name: str, node: str = "") -> str:
    """No name of a setting has a slash."""
    return f"{name}/{node}" if node else name


def policy_key(kind: str, namespace: str, name: str) -> str:
    return f"{kind}/{namespace}/{name}"


class Table(Mapping[K, V], Generic[K, V]):
    """Read side of one table; decodes on reading."""

    __slots__ = ("name", "tag", "decode", "data")

    def __init__(self, name: str, decode: Callable[[bytes], V]) -> None:
        self.name = name
        self.tag = name.encode()
        self.decode = decode
        self.data: dict[K, bytes] = {}

    def __getitem__(self, key: K) -> V:
        return self.decode(self.data[key])

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __iter__(self) -> Iterator[K]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class State:
    """The fold of the log up to `seq`."""

    def __init__(self) -> None:
        self.seq = 0
        self.nodes: Table[str, Node] = Table("node", nouns.decode_node)
        self.identities: Table[int, Identity] = Table("identity", nouns.decode_identity)
        self.endpoints: Table[str, Endpoint] = Table("endpoint", nouns.decode_endpoint)
        self.policies: Table[str, Policy] = Table("policy", nouns.decode_policy)
        self.namespaces: Table[str, Namespace] = Table("namespace", nouns.decode_namespace)
        self.pods: Table[str, Pod] = Table("pod", nouns.decode_pod)
        self.settings: Table[str, Setting] = Table("setting", nouns.decode_setting)
        self.services: Table[str, Service] = Table("service", nouns.decode_service)
        self.endpoint_slices: Table[str, EndpointSlice] = Table("endpoint_slice", nouns.decode_endpoint_slice)
        self.identity_of_labels: dict[Labels, int] = {}  # the lowest number, should there be several
        self._further_identities: dict[Labels, set[int]] = {}
        self._endpoints_of_identity: dict[int, set[str]] | None = None  # until somebody asks
        self._multiset = Multiset()
        self._tables: dict[str, Table[str, Noun] | Table[int, Noun]] = {
            table.name: table  # type: ignore[misc]
            for table in (
                self.nodes,
                self.identities,
                self.endpoints,
                self.policies,
                self.namespaces,
                self.pods,
                self.settings,
                self.services,
                self.endpoint_slices,
            )
        }

    @property
    def digest(self) -> bytes:
        """32 bytes over all entries; equal states have equal digests."""
        return self._multiset.digest()

    @property
    def endpoints_of_identity(self) -> dict[int, set[str]]:
        """Made when first asked for and kept from then on: agents, with all endpoints of the cluster, never ask."""
        if self._endpoints_of_identity is None:
            self._endpoints_of_identity = {}
            for key, value in self.endpoints.data.items():
                self._note_user(nouns.decode_endpoint_identity(value), key)
        return self._endpoints_of_identity

    def put(self, table: str, key: Key, new: bytes | None) -> Change | None:
        """Set or (None) remove one entry. Returns the change, None where nothing changes."""
        target = self._tables[table]
        data: dict[Key, bytes] = target.data  # type: ignore[assignment]
        old = data.get(key)
        if old == new:
            return None
        tag, key_bytes = target.tag, key_to_bytes(key)
        if old is not None:
            self._multiset.remove(hash_entry(tag, key_bytes, old))
        if new is None:
            del data[key]
        else:
            data[key] = new
            self._multiset.add(hash_entry(tag, key_bytes, new))
        change = Change(table, key, old, new)
        self._index(change)
        return change

    def undo(self, changes: Iterable[Change]) -> None:
        """Revert changes (in the order in which they were made)."""
        for change in reversed(list(changes)):
            self.put(change.table, change.key, change.old)

    def table(self, name: str) -> Mapping[str, Noun] | Mapping[int, Noun]:
        return self._tables[name]

    def data(self) -> dict[str, dict[Key, bytes]]:
        """Every table's entries by its name: live, not to be changed."""
        return {name: table.data for name, table in self._tables.items()}  # type: ignore[misc]

    def _index(self, change: Change) -> None:
        if change.table == "endpoint":
            if self._endpoints_of_identity is None:
                return
            if change.old is not None:
                self._forget_user(nouns.decode_endpoint_identity(change.old), str(change.key))
            if change.new is not None:
                self._note_user(nouns.decode_endpoint_identity(change.new), str(change.key))
        elif change.table == "identity":
            if change.old is not None:
                self._forget_labels(nouns.decode_identity(change.old).labels, int(change.key))
            if change.new is not None:
                self._note_labels(nouns.decode_identity(change.new).labels, int(change.key))

    def _note_user(self, identity: int, key: str) -> None:
        users = self.endpoints_of_identity.get(identity)
        if users is None:
            self.endpoints_of_identity[identity] = {key}
        else:
            users.add(key)

    def _forget_user(self, identity: int, key: str) -> None:
        users = self.endpoints_of_identity[identity]
        users.discard(key)
        if not users:
            del self.endpoints_of_identity[identity]

    def _note_labels(self, labels: Labels, number: int) -> None:
        lowest = self.identity_of_labels.setdefault(labels, number)
        if lowest != number:
            self.identity_of_labels[labels] = min(lowest, number)
            self._further_identities.setdefault(labels, set()).add(max(lowest, number))

    def _forget_labels(self, labels: Labels, number: int) -> None:
        further = self._further_identities.get(labels)
        if further is None:
            del self.identity_of_labels[labels]
            return
        if self.identity_of_labels[labels] == number:
            self.identity_of_labels[labels] = number = min(further)
        further.discard(number)
        if not further:
            del self._further_identities[labels]

    def copy(self) -> "State":
        """Another one with the same entries."""
        other = State()
        other.seq = self.seq
        for name, table in self._tables.items():
            other._tables[name].data.update(table.data)  # type: ignore[arg-type]
        other.identity_of_labels = dict(self.identity_of_labels)
        other._further_identities = {labels: set(numbers) for labels, numbers in self._further_identities.items()}
        other._multiset = self._multiset.copy()
        return other

    def records(self) -> Iterator[tuple[str, bytes, bytes]]:
        """(table, key bytes, value bytes) in canonical order: the content of a snapshot."""
        for name in sorted(self._tables):
            data: dict[Key, bytes] = self._tables[name].data  # type: ignore[assignment]
            for key_bytes, value in sorted((key_to_bytes(key), value) for key, value in data.items()):
                yield name, key_bytes, value

    def load(self, records: Iterable[tuple[str, bytes, bytes]], seq: int) -> None:
        """Entries of a snapshot taken at `seq`, into a state without them. Unknown tables are skipped."""
        hashes = 0
        for name, key_bytes, value in records:
            target = self._tables.get(name)
            if target is None:
                continue
            key = key_from_bytes(name, key_bytes)
            data: dict[Key, bytes] = target.data  # type: ignore[assignment]
            if key in data or name == "identity" or self._endpoints_of_identity is not None:
                self.put(name, key, value)
            else:  # nothing before it, and no index that follows it
                data[key] = value
                hashes += hash_entry(target.tag, key_bytes, value)
        self._multiset.add(hashes)
        self.seq = seq


def state_as_changes(state: State, tables: Iterable[str]) -> Iterator[Change]:
    """As if all that these tables hold came now, one table after the other."""
    held = state.data()
    for table in tables:
        for key, value in held[table].items():
            yield Change(table, key, None, value)


def key_to_bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key.to_bytes(4, "big")


def key_from_bytes(table: str, data: bytes) -> Key:
    return int.from_bytes(data, "big") if table == "identity" else data.decode()
