"""Which identity a prefix has, and in which groups of CIDRs it is."""

from kilim.controlplane.decide.prefixes import PrefixTable
from kilim.model.address import Cidr
from kilim.model.cidr_group import CIDR_GROUP, CidrGroup, group_of, label_of_group
from kilim.model.identity import FIRST_CIDR, cidr_labels
from kilim.model.nouns import decode_identity, decode_policy
from kilim.model.state import Change

GroupChange = tuple[str, CidrGroup | None]  # its name and what it will be; None: it goes


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
            name, group = changed
            inside.pop(name, None)
            if group is not None and group.covers(cidr):
                inside[name] = group
        return tuple(
            sorted((*cidr_labels(cidr), *(label_of_group(name, each.labels) for name, each in inside.items())))
        )

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
