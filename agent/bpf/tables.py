"""The driver of a node's tables: the smallest ordered change that brings the kernel to where it should be.

It keeps a copy of the kernel's rows, read at the start and after an error. What a visitor would get wrong: `endpoints`
rows are joined with the interface index here and nowhere else (I13), so an endpoint without one is held back.
"""

from collections.abc import Mapping
from typing import NamedTuple

from kilim.agent.bpf import rows, syscall
from kilim.agent.bpf.dump import dump_table
from kilim.agent.bpf.epoch import NODE, WIRE, Epoch
from kilim.agent.bpf.kernel_rows import KernelEndpoint, KernelSubject, local_differences, read_kernel_rows
from kilim.agent.bpf.maps import Maps, Rows
from kilim.agent.bpf.policy import PolicyPlan, flip_to, plan_changes, plan_policy
from kilim.agent.bpf.reading import Reading
from kilim.agent.core.drift import DriftedRow
from kilim.model.tables import (
    EndpointValue,
    PolicyKey,
    RowChanges,
    Tables,
    TablesDelta,
    change_policy_rows,
    set_policy_rows,
)

_U32 = 0xFFFFFFFF
_EPOCHS = {"endpoints": NODE, "subjects": NODE, "ipcache": WIRE}


class Retired(NamedTuple):
    """Rows at which no subject points any more."""

    keys: Rows


class _Writing:
    """What is to be done to the map of policy, by (table, subject), and what comes of it."""

    def __init__(self) -> None:
        self.add: list[tuple[rows.Place, list[tuple[PolicyKey, int]]]] = []
        self.remove: list[tuple[rows.Place, list[PolicyKey]]] = []
        self.revised: set[int] = set()
        self.retired: list[Rows] = []


class KernelTables:
    """Not for several threads. `write` is idempotent and may be called with an empty delta."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        # one object for each number: two that count by themselves would come back to what was in use before
        numbers = {of: Epoch(maps["epoch"], of) for of in (NODE, WIRE)}
        self._epochs = {name: numbers[of] for name, of in _EPOCHS.items()}
        self._kernel = read_kernel_rows(maps)
        self._remove_foreign()
        self._unused = True  # nobody has asked for what was read, nothing has been written
        self._retired: list[Retired] = []
        self._wanted: dict[int, EndpointValue] = {}
        self._local_drift: list[DriftedRow] = []
        self._adopt()

    def read_rows(self) -> Tables:
        """The kernel's rows as logical ones, read anew (or just at the start); later writes are differences to these.
        A copy, which shares its rows with ours."""
        if not self._unused:
            self._read_again()
        self._unused = False
        return self._kernel.tables()

    def pressure(self) -> dict[str, float]:
        """By map how full it is, 0 to 1: by what we know of, retired rows included."""
        kernel = self._kernel
        policy = sum(map(len, kernel.policy.values())) + sum(len(each.keys) for each in self._retired)
        counts = {"ipcache": len(kernel.ipcache), "endpoints": len(kernel.endpoints)}
        counts |= {"subjects": len(kernel.subjects), "policy": policy}
        return {name: count / self._maps[name].max_entries for name, count in counts.items()}

    def take_local_drift(self) -> list[DriftedRow]:
        """Rows whose local inputs the last `read_rows` found changed; they are right again after the next `write`."""
        drift, self._local_drift = self._local_drift, []
        return drift

    def start_reading(self) -> Reading:
        """For a look at what the kernel holds; our copy stays as it is. One at a time."""
        return Reading(self._maps, lambda: self._kernel)

    def dump(self, table: str, raw: bool = False) -> tuple[list[str], list[list[str]]]:
        """A table of the kernel as text; raw: the entries with table generation, revision, interface and MAC addresses.
        Raises KeyError for a table that is none."""
        return dump_table(self._maps, table, raw)

    @property
    def held_endpoints(self) -> frozenset[int]:
        """Addresses that wait for their interface."""
        return frozenset(self._wanted.keys() - self._kernel.endpoints.keys())

    def has_endpoint(self, ip: int) -> bool:
        """Whether the datapath serves this address: its row and its identity's policy are in place (I9)."""
        endpoint = self._kernel.endpoints.get(ip)
        return endpoint is not None and endpoint.identity in self._kernel.subjects

    def write(self, delta: TablesDelta, seq: int, ifindex_of: Mapping[int, int], *, allow_delete: bool = True) -> None:
        """Bring the kernel to `delta`, additions before what refers to them, removals in reverse (I8).

        `ifindex_of`: address of an endpoint to the index of the host's side of its veth pair. `allow_delete=False`
        until the agent has caught up once (I6): what `delta` no longer knows stays as it is; a subject that it knows
        gets its rows and flags whole, as a mix of two policies may open what both close. Raises MapFull, OSError.
        After that, and for what was not deleted: take the difference to `read_rows()`."""
        self._unused = False
        stamp = max(seq & _U32, self._kernel.stamp + 1)
        try:
            self._begin_audits(delta)
            try:
                self._write_policy_and_subjects(delta, stamp, allow_delete)
            finally:  # also while the policy map is full
                self._end_audits(delta)
            self._write_endpoints(delta, ifindex_of, allow_delete)
            self._write_ipcache(delta)
            if allow_delete:
                self._delete(delta)
        except OSError:
            self._reload()
            raise

    @property
    def retired(self) -> tuple[Retired, ...]:
        """What `sweep` would delete."""
        return tuple(self._retired)

    def sweep(self, due: tuple[Retired, ...] | None = None) -> int:
        """Delete the rows of retired tables. A program may still be on its way through them, however long it takes: so
        `due` are those that were `retired` before the last `wait_for_programs`, or all of them after such a wait here,
        some 10 ms. Returns how many rows went."""
        if due is None:
            due = self.retired
            if due:
                syscall.wait_for_programs()
        gone = 0
        for each in due:
            if not any(other is each for other in self._retired):
                continue
            gone += self._maps["policy"].delete(each.keys)
            # only now: what an error keeps in the map is tried again
            self._retired = [other for other in self._retired if other is not each]
        return gone

    @property
    def unsettled(self) -> dict[Epoch, int]:
        """What `settle` takes after the next `wait_for_programs`: changes that programs may have seen out of order."""
        return {each: each.value for each in self._epochs.values() if not each.settled}

    def settle(self, due: Mapping[Epoch, int]) -> None:
        """Raises OSError; what is left is `unsettled` yet."""
        for each, seen in due.items():
            each.settle(seen)

    def advance_epochs(self) -> None:
        """Connections look at all rows again: programs of before may have noted what theirs came to. Raises OSError."""
        for each in set(self._epochs.values()):
            each.advance()

    def _update(self, name: str, keys: Rows, values: Rows) -> None:
        """Of what connections remember: they are to look again."""
        try:
            self._maps[name].update(keys, values)
        finally:
            self._epochs[name].advance()

    def _delete_rows(self, name: str, keys: Rows) -> None:
        if len(keys):
            try:
                self._maps[name].delete(keys)
            finally:
                self._epochs[name].advance()

    def _read_again(self) -> None:
        before = self._kernel
        self._reload()
        self._local_drift = local_differences(before, self._kernel)
        moved = {
            identity: KernelSubject(*held[:2], self._kernel.subjects[identity].flags)
            for identity, held in before.subjects.items()
            if identity in self._kernel.subjects and self._kernel.subjects[identity][:2] != held[:2]
        }
        if moved:  # somebody pointed them at other rows; ours are still there, and so they are in force at once
            self._update("subjects", rows.subject_keys(moved), rows.subject_values(moved.values()))
            self._reload()

    def _reload(self) -> None:
        stamp = self._kernel.stamp
        self._kernel = read_kernel_rows(self._maps)
        self._remove_foreign()
        self._kernel.stamp = max(self._kernel.stamp, stamp)
        self._adopt()

    def _remove_foreign(self) -> None:
        """At once, also before the log is caught up with: no agent wrote them. Later it could be a row of ours that
        goes, as to the kernel some of them are the same entry."""
        for keys, _ in self._kernel.foreign:
            self._maps["policy"].delete(keys)

    def _adopt(self) -> None:
        self._retired = []
        self._retire(self._kernel.leftovers)
        for ip, endpoint in self._kernel.endpoints.items():
            self._wanted.setdefault(ip, endpoint.logical)

    def _retire(self, tables: list[Rows]) -> None:
        self._retired += [Retired(keys) for keys in tables]

    def _begin_audits(self, delta: TablesDelta) -> None:
        """Before all policy: what that comes to refuse in the same write passes already. Not of an endpoint that the
        address is still to go to."""
        held = self._kernel.endpoints
        self._write_flags(
            {
                ip: value.flags | held[ip].flags
                for ip, value in delta.endpoints.items()
                if value is not None and ip in held and value[:2] == held[ip].logical[:2]
            }
        )

    def _end_audits(self, delta: TablesDelta) -> None:
        """After all policy, even where that failed."""
        held = self._kernel.endpoints
        self._write_flags(
            {
                ip: value.flags & held[ip].flags
                for ip, value in delta.endpoints.items()
                if value is not None and ip in held
            }
        )

    def _write_flags(self, flags_of: Mapping[int, int]) -> None:
        held = self._kernel.endpoints
        changed = {
            ip: held[ip]._replace(flags=flags)
            for ip, flags in flags_of.items()
            if held[ip].ifindex and flags != held[ip].flags
        }
        if changed:
            values = rows.endpoint_values(changed.values())
            self._update("endpoints", rows.endpoint_keys(changed), values)
            held |= changed

    def _write_policy_and_subjects(self, delta: TablesDelta, stamp: int, allow_delete: bool) -> None:
        """Rows, then the subjects that point at them, and only then what nothing points at is up for removal."""
        kernel = self._kernel
        writing = _Writing()
        for subject, wanted in delta.policy.items():
            goes = subject in delta.subjects and delta.subjects[subject] is None
            old, new = kernel.policy.get(subject, {}), wanted or {}
            if new == old or (goes and not allow_delete):
                continue
            plan = plan_policy(old, new)
            if self._changes_flags(delta, subject):
                plan = flip_to(new)  # rows and flags in one write
            if goes and not new:
                plan = PolicyPlan(True, [], [], False)  # keeps its rows until its own row is gone
            self._plan(writing, subject, plan, stamp)
            set_policy_rows(kernel.policy, subject, new)
        for subject, changes in delta.rows.items():
            self._plan(writing, subject, self._plan_changes(delta, subject, changes), stamp)
            change_policy_rows(kernel.policy, subject, changes)
        self._write_policy(writing)
        self._write_subjects(delta, stamp, writing.revised)
        self._retire(writing.retired)

    def _changes_flags(self, delta: TablesDelta, subject: int) -> bool:
        flags, held = delta.subjects.get(subject), self._kernel.subjects.get(subject)
        return flags is not None and held is not None and flags != held.flags

    def _plan_changes(self, delta: TablesDelta, subject: int, changes: RowChanges) -> PolicyPlan:
        """Only where there is no way in place the other rows of the subject are looked at."""
        old = self._kernel.policy.get(subject, {})
        plan = None if self._changes_flags(delta, subject) else plan_changes(old, changes)
        if plan is None:
            policy = {subject: dict(old)}
            change_policy_rows(policy, subject, changes)
            plan = flip_to(policy.get(subject, {}))
        return plan

    def _plan(self, writing: "_Writing", subject: int, plan: PolicyPlan, stamp: int) -> None:
        """Before the copy of the kernel's rows follows."""
        kernel = self._kernel
        old = kernel.policy.get(subject)
        if plan.flip and old:
            writing.retired.append(rows.policy_keys(kernel.table_of[subject], subject, old.keys()))
        if plan.flip or subject not in kernel.table_of:
            kernel.table_of[subject] = kernel.stamp = stamp
        place = kernel.table_of[subject], subject
        if plan.add:
            writing.add.append((place, plan.add))
        if plan.remove:
            writing.remove.append((place, plan.remove))
        if plan.revise:
            writing.revised.add(subject)

    def _write_policy(self, writing: "_Writing") -> None:
        """Of all subjects at once, which do not see one another's rows."""
        added = [(place, [key for key, _ in pairs]) for place, pairs in writing.add]
        values = [value for _, pairs in writing.add for _, value in pairs]
        self._maps["policy"].update(rows.policy_keys_of(added), rows.policy_values(values))
        self._maps["policy"].delete(rows.policy_keys_of(writing.remove))

    def _write_subjects(self, delta: TablesDelta, stamp: int, revised: set[int]) -> None:
        kernel = self._kernel
        flags_of = {each: kernel.subjects[each].flags for each in revised & kernel.subjects.keys()}
        for identity, flags in delta.subjects.items():
            old = kernel.subjects.get(identity)
            if flags is None:
                flags_of.pop(identity, None)
            elif old is None or old.flags != flags or identity in revised:
                flags_of[identity] = flags
        if not flags_of:
            return
        changed = {
            identity: KernelSubject(kernel.table_of.setdefault(identity, stamp), stamp, flags)
            for identity, flags in flags_of.items()
        }
        self._update("subjects", rows.subject_keys(changed), rows.subject_values(changed.values()))
        kernel.subjects |= changed
        kernel.stamp = stamp

    def _write_endpoints(self, delta: TablesDelta, ifindex_of: Mapping[int, int], allow_delete: bool) -> None:
        kernel = self._kernel
        for ip, value in delta.endpoints.items():
            if value is not None:
                self._wanted[ip] = value
            elif allow_delete:
                self._wanted.pop(ip, None)
        changed: dict[int, KernelEndpoint] = {}
        for ip, (endpoint_id, identity, flags) in self._wanted.items():
            old = kernel.endpoints.get(ip)
            ifindex = ifindex_of.get(ip, old.ifindex if old else 0)
            if ifindex and old != (ifindex, identity, endpoint_id, flags):
                changed[ip] = KernelEndpoint(ifindex, identity, endpoint_id, flags)
        if changed:
            values = rows.endpoint_values(changed.values())
            self._update("endpoints", rows.endpoint_keys(changed), values)
            kernel.endpoints |= changed

    def _write_ipcache(self, delta: TablesDelta) -> None:
        held = self._kernel.ipcache
        changed = {key: value for key, value in delta.ipcache.items() if value is not None and held.get(key) != value}
        if changed:
            self._update("ipcache", rows.ipcache_keys(changed.keys()), rows.ipcache_values(changed.values()))
        held |= changed

    def _delete(self, delta: TablesDelta) -> None:
        kernel = self._kernel
        prefixes = [key for key, value in delta.ipcache.items() if value is None and key in kernel.ipcache]
        # what has host bits is the same entry as the prefix without, which has been written over it
        over = {key for key in prefixes if (own := rows.without_host_bits(key)) != key and own in kernel.ipcache}
        self._delete_rows("ipcache", rows.ipcache_keys([key for key in prefixes if key not in over]))
        for prefix in prefixes:
            del kernel.ipcache[prefix]
        ips = [ip for ip, value in delta.endpoints.items() if value is None and ip in kernel.endpoints]
        self._delete_rows("endpoints", rows.endpoint_keys(ips))
        for ip in ips:
            del kernel.endpoints[ip]
        gone = [key for key, flags in delta.subjects.items() if flags is None and key in kernel.subjects]
        self._delete_rows("subjects", rows.subject_keys(gone))
        for identity in gone:
            del kernel.subjects[identity]
            if identity not in kernel.policy:
                kernel.table_of.pop(identity, None)
