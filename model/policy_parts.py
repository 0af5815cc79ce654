"""What policies say, kept change by change: for a policy that comes, changes or goes, and for the services behind it.

A visitor would get wrong: only policies that refer to services are held here, and only they are compiled again, when
one of the services or slices that they are about changes. The state may be ahead of the change that is followed.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kilim.model.compile import compile_policy, part_key, parts_as_written, references_of
from kilim.model.nouns import Policy, decode_policy
from kilim.model.rules import PolicyRules
from kilim.model.service import ServiceSpec
from kilim.model.service_index import Services, concerns
from kilim.model.service_reference import ServiceReference, ServicesNamed
from kilim.model.state import Change, State

TABLES_OF_POLICIES = ("policy", "service", "endpoint_slice")  # of the state: what policies say depends on these alone
Parts = tuple[PolicyRules, ...]


class PolicyChange(NamedTuple):
    """One object before and after; without parts where it was not, or is not, there."""

    key: str
    old: Policy | None
    old_parts: Parts
    new: Policy | None
    new_parts: Parts

    def rules(self) -> Iterator[tuple[str, PolicyRules | None]]:
        """Part by part, those that differ, for a `PolicyIndex`."""
        for number in range(max(len(self.old_parts), len(self.new_parts))):
            new = self.new_parts[number] if number < len(self.new_parts) else None
            if self.old is None or number >= len(self.old_parts) or self.old_parts[number] != new:
                yield part_key(self.key, number), new


class PolicyParts:
    def __init__(self) -> None:
        self._services: Services | None = None
        self._referring: dict[str, tuple[Policy, Parts]] = {}
        self._users: dict[ServiceReference, set[str]] = {}  # keys of the policies that have it
        self._by_name: dict[str, set[ServiceReference]] = {}  # of those that name a service
        self._others: set[ServiceReference] = set()

    @property
    def any_refers(self) -> bool:
        """Whether there is a policy that refers to services."""
        return bool(self._referring)

    def services(self, state: State) -> Services:
        if self._services is None:
            self._services = Services(state)
        return self._services

    def follow(self, state: State, change: Change) -> list[PolicyChange]:
        """A change of one of `TABLES_OF_POLICIES`."""
        if change.table == "policy":
            return [self._change_policy(state, change)]
        services = self.services(state)
        keys = {key for touched in services.follow(change) for key in self._users_of(*touched)}
        return [each for each in map(self._compile_again, sorted(keys)) if each.old_parts != each.new_parts]

    def _change_policy(self, state: State, change: Change) -> PolicyChange:
        key = str(change.key)
        old = None if change.old is None else decode_policy(change.old)
        new = None if change.new is None else decode_policy(change.new)
        old_parts = () if old is None else parts_as_written(old)
        if key in self._referring:
            old, old_parts = self._referring.pop(key)
            for reference in references_of(old):
                self._drop_user(reference, key)
        if new is None:
            return PolicyChange(key, old, old_parts, None, ())
        new_parts = compile_policy(new, self.services(state))
        if references_of(new):
            self._referring[key] = new, new_parts
            for reference in references_of(new):
                self._add_user(reference, key)
        return PolicyChange(key, old, old_parts, new, new_parts)

    def _compile_again(self, key: str) -> PolicyChange:
        assert self._services is not None  # they have changed
        policy, before = self._referring[key]
        after = compile_policy(policy, self._services)
        self._referring[key] = policy, after
        return PolicyChange(key, policy, before, policy, after)

    # --- who uses what

    def _users_of(self, service: str, old: ServiceSpec | None, new: ServiceSpec | None) -> Iterator[str]:
        """Keys of the policies with a reference to a service, as it was or as it is; may repeat themselves."""
        for reference in (*self._by_name.get(service.partition("/")[2], ()), *self._others):
            if concerns(reference, service, old, new):
                yield from self._users[reference]

    def _add_user(self, reference: ServiceReference, key: str) -> None:
        if reference not in self._users:
            self._filed(reference).add(reference)
        self._users.setdefault(reference, set()).add(key)

    def _drop_user(self, reference: ServiceReference, key: str) -> None:
        users = self._users[reference]
        users.discard(key)
        if users:
            return
        del self._users[reference]
        self._filed(reference).discard(reference)
        if isinstance(reference, ServicesNamed) and not self._by_name[reference.name]:
            del self._by_name[reference.name]

    def _filed(self, reference: ServiceReference) -> set[ServiceReference]:
        return self._by_name.setdefault(reference.name, set()) if isinstance(reference, ServicesNamed) else self._others
