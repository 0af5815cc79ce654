"""Which identity a prefix has, and in which groups of CIDRs it is."""

from collections.abc import Iterable

from kilim.controlplane.decide.prefixes import PrefixTable
from kilim.model.address import Cidr
from kilim.model.cidr_group import CIDR_GROUP, CidrGroup, group_of, label_of_group
from kilim.model.identity import FIRST_CIDR, cidr_labels
from kilim.model.nouns import decode_identity, decode_policy
from kilim.model.state import Change


class GroupChange:
    """A group as it will be; None: it goes."""

    def __init__(self, name: str, group: CidrGroup | None) -> None:
        self.name = name
        self.group = group
        self._prefixes = table_of(group.prefixes if group else ())

    def label(self, cidr: Cidr) -> str | None:
        """What the identity of a prefix gets by it."""
        inside = self.group is not None and covers(self._prefixes, cidr)
        return label_of_group(self.name, self.group.labels) if inside and self.group else None


def table_of(prefixes: Iterable[Cidr]) -> PrefixTable:
    table = PrefixTable()
    for prefix in prefixes:
        table.count(prefix, 1)
    return table


def covers(table: PrefixTable, cidr: Cidr) -> bool:
    return any(each.contains(cidr) for each in table.containing(cidr.ip))


class CidrGroups:
    def __init__(self) -> None:
        self.identity_at: dict[Cidr, int] = {}
        self._groups: dict[str, CidrGroup] = {}
        self._names_at: dict[Cidr, set[str]] = {}
        self._prefixes = PrefixTable()

    def labels(self, cidr: Cidr, changed: GroupChange | None = None) -> tuple[str, ...]:
        """Those of the prefix's identity, once `changed` has happened; sorted."""
        inside: dict[str, CidrGroup] = {}
        for prefix in self._prefixes.containing(cidr.ip):
            if prefix.contains(cidr):
                inside.update((name, self._groups[name]) for name in self._names_at[prefix])
        if changed is not None:
            inside.pop(changed.name, None)
        found = [label_of_group(name, group.labels) for name, group in inside.items()]
        coming = changed.label(cidr) if changed is not None else None
        return tuple(sorted((*cidr_labels(cidr), *found, *([coming] if coming else []))))

    def follow_identity(self, change: Change) -> None:
        if int(change.key) < FIRST_CIDR:
            return
        old, new = (None if each is None else decode_identity(each).cidr for each in (change.old, change.new))
        if old is not None and self.identity_at.get(old) == change.key:
            del self.identity_at[old]
        if new is not None:
            self.identity_at[new] = int(change.key)

    def follow_policy(self, old: bytes | None, new: bytes | None) -> None:
        for value, comes in ((old, False), (new, True)):
            policy = None if value is None else decode_policy(value)
            if policy is None or policy.kind != CIDR_GROUP:
                continue
            group = group_of(policy)
            if comes:
                self._groups[policy.name] = group
            else:
                del self._groups[policy.name]
            for prefix in group.prefixes:
                self._prefixes.count(prefix, 1 if comes else -1)
                names = self._names_at.setdefault(prefix, set())
                (names.add if comes else names.discard)(policy.name)
                if not names:
                    del self._names_at[prefix]
