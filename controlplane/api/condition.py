"""Is everything well? Put together from what this replica knows; every reason why not is one line of `problems`."""

import time
from collections.abc import Iterable

from kilim.controlplane.agreement import Agreement, checkpoints
from kilim.controlplane.api.peers import Peers
from kilim.controlplane.auditor import Auditor
from kilim.controlplane.keeper import Keeper
from kilim.controlplane.replica import Replica
from kilim.controlplane.reports import KERNEL, STATE, TABLES, Reports
from kilim.controlplane.store import FULL, Store
from kilim.kvstore.election import Election
from kilim.model.address import format_ip
from kilim.model.settings import ENABLE_POLICY, audits
from kilim.v1 import controlplane_pb2 as api

# A replica that has gone is missed for as long; then it is taken to have been removed on purpose.
MISSED_S = 600.0
NAMED = 3  # nodes of each kind in a line
NOT_KEPT = "snapshots and trimming of the log do not go on"


class Condition:
    """`advertise` is known once the server is bound."""

    def __init__(
        self,
        name: str,
        replica: Replica,
        auditor: Auditor,
        agreement: Agreement,
        reports: Reports,
        store: Store,
        election: Election,
        keeper: Keeper,
        peers: Peers,
    ) -> None:
        self._name = name
        self.advertise = ""
        self._auditor = auditor
        self._agreement = agreement
        self._replica = replica
        self._reports = reports
        self._store = store
        self._election = election
        self._keeper = keeper
        self._peers = peers

    async def status(self, *, this_replica_only: bool) -> api.StatusResponse:
        problems: list[str] = []
        others = [] if this_replica_only else await self._other_replicas(problems)
        # From here on nothing waits, so that what is said of this replica is of one moment.
        replicas = sorted([self._own_status(), *others], key=lambda status: status.name)
        nodes = [self.node_status(name) for name in sorted(self._replica.state.nodes)]
        etcd = self._etcd_status()
        problems += self._own_problems(etcd)
        problems += self._agreement.problems()
        problems += self._reports.problems()
        for node in nodes:
            if not node.up:
                problems.append(f"node {node.name}: its agent does not report to this replica")
            elif node.silent:
                problems.append(f"node {node.name}: its agent has been silent for {node.last_report_age_ms // 1000} s")
            problems += [f"node {node.name}: {error}" for error in node.errors if node.up]
            problems += [f"node {node.name}: {line}" for line in unreached(node.health) if node.up]
        problems += routing_problems(nodes)
        return api.StatusResponse(
            ok=not problems,
            problems=problems,
            seq=self._replica.seq,
            chain=self._replica.chain,
            state_digest=self._replica.state.digest,
            replicas=replicas,
            etcd=etcd,
            nodes=nodes,
            log=log_status(self._keeper),
            checkpoints=checkpoints(self._replica.history),
            enable_policy=ENABLE_POLICY.read(self._replica.state),
        )

    def node_status(self, name: str) -> api.NodeStatus:
        node = self._replica.state.nodes[name]
        ip, ipv6 = (format_ip(each) if each else "" for each in (node.ip, node.ipv6))
        status = api.NodeStatus(name=name, ip=ip, ipv6=ipv6, pod_cidrs=node.pod_cidrs)
        heard = self._reports.of(name)
        if heard is not None:
            report = heard.report
            status.up, status.silent = heard.streams > 0, self._reports.is_silent(heard)
            status.seq = report.seq
            status.state_digest = report.state_digest
            status.table_digest = report.table_digest
            status.state_comparison = self._reports.verdict(heard, STATE)
            status.table_comparison = self._reports.verdict(heard, TABLES)
            status.kernel_comparison = self._reports.verdict(heard, KERNEL)
            if report.HasField("health"):
                status.health.CopyFrom(report.health)
            status.drift_repairs = report.drift_repairs
            status.routing_mode = report.routing_mode
            status.errors.extend(report.errors)
            now_s = time.monotonic()
            status.last_report_age_ms = int((now_s - heard.at_s) * 1000)
            status.kernel_age_ms = int((now_s - heard.kernel_heard_s) * 1000) if heard.kernel_heard_s else 0
        status.policy_audit_mode = audits(self._replica.state, name)
        status.lag_events = max(self._replica.seq - status.seq, 0)
        status.lag_ms = int(self._reports.lag_s(name) * 1000)
        return status

    def _own_status(self) -> api.ReplicaStatus:
        return api.ReplicaStatus(
            name=self._name,
            address=self.advertise,
            leader=self._election.leader_name == self._name,
            self=True,
            seq=self._replica.seq,
            state_digest=self._replica.state.digest,
            comparison=api.MATCH if self._auditor.difference is None else api.DIFFERS,
            compared_seq=self._auditor.seq,
        )

    async def _other_replicas(self, problems: list[str]) -> list[api.ReplicaStatus]:
        others = self._agreement.others()
        statuses = []
        for name, address in self._store.missed(MISSED_S).items():
            problems.append(f"replica {name}: is gone (last known at {address})")
            statuses.append(api.ReplicaStatus(name=name, address=address))
        for name, answer in (await self._peers.ask(others)).items():
            status = api.ReplicaStatus(name=name, address=others[name], leader=self._election.leader_name == name)
            if isinstance(answer, str):
                problems.append(f"replica {name}: does not answer at {others[name]}: {answer}")
            else:
                status.seq, status.state_digest = answer.seq, answer.state_digest
                self._agreement.take(name, answer)
                if answer.log.error and not self._store.full:
                    problems.append(f"replica {name}: {NOT_KEPT}: {answer.log.error}")
            compared = self._agreement.of(name)
            if compared is not None:
                status.comparison, status.compared_seq = compared.verdict, compared.seq
            statuses.append(status)
        return statuses

    def _etcd_status(self) -> api.EtcdStatus:
        statuses = self._store.statuses
        answering = [status for status in statuses if not status.error]
        leader = next((status.endpoint for status in answering if status.is_leader), "")
        return api.EtcdStatus(
            reachable=self._store.reachable,
            endpoints=[status.endpoint for status in statuses],
            version=answering[0].version if answering else "",
            db_size_bytes=max((status.db_bytes for status in answering), default=0),
            error="; ".join(f"{status.endpoint}: {status.error}" for status in statuses if status.error)
            or self._store.error,
            leader=leader,
            alarms=sorted({alarm for status in answering for alarm in status.alarms}),
        )

    def _own_problems(self, etcd: api.EtcdStatus) -> list[str]:
        problems = []
        if not self._replica.loaded:
            problems.append("this replica has not read the log yet")
        if self._replica.broken:
            problems.append(f"this replica does not follow the log: {self._replica.broken}")
        problems += self._auditor.problems()
        if not etcd.reachable:
            problems.append(self._store.why_not() or "etcd: not reached yet")
        elif etcd.error:
            problems.append(f"etcd: {etcd.error}")
        if self._store.full:
            problems.append(FULL)
        problems += [f"etcd: alarm {alarm}" for alarm in etcd.alarms if "NOSPACE" not in alarm]
        if self._keeper.error and not self._store.full:
            problems.append(f"this replica: {NOT_KEPT}: {self._keeper.error}")
        return problems + self._keeper.proven.problems()


def routing_problems(nodes: Iterable[api.NodeStatus]) -> list[str]:
    """Nodes whose packets take different ways do not reach each other. Those that are down have no say."""
    names: dict[str, list[str]] = {}
    for node in nodes:
        if node.up and node.routing_mode:
            names.setdefault(node.routing_mode, []).append(node.name)
    if len(names) < 2:
        return []
    shown = []
    for mode, of_mode in sorted(names.items(), key=lambda each: each[1][0]):
        shown += [f"{name} {mode}" for name in of_mode[:NAMED]]
        shown += [f"{len(of_mode) - NAMED} more {mode}"] if len(of_mode) > NAMED else []
    return [f"routing-mode differs between nodes: {', '.join(shown)}"]


def unreached(health: api.ConnectivitySummary) -> list[str]:
    """A line for each node that is not reached, with the paths and since when."""
    by_node: dict[str, list[api.UnreachablePath]] = {}
    for path in health.unreachable:
        by_node.setdefault(path.node, []).append(path)
    lines = []
    for name, paths in by_node.items():
        words = ", ".join(f"{path.path} ({path.ip})" for path in paths)
        longest_s = max(path.for_ms for path in paths) // 1000
        lines.append(f"cannot reach {name} for {longest_s} s: {words}: {paths[0].error}")
    return [*lines, f"cannot reach others on {health.more} more paths"] if health.more else lines


def log_status(keeper: Keeper) -> api.LogStatus:
    """As of the keeper's last look."""
    snapshots = [api.SnapshotStatus(seq=one.seq, time_ns=one.time_ns, bytes=one.bytes) for one in keeper.manifests]
    return api.LogStatus(
        first_seq=keeper.start.first_seq,
        snapshots=snapshots,
        archived_seq=keeper.archive.seq if keeper.archive is not None else 0,
        error=keeper.error,
    )
