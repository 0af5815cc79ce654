"""The demo: a cluster, an application, policy, and then two kills that nobody notices.

Every sentence it prints as `ok` has been checked; one that does not hold makes the exit status 1.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from kilim.lab import cluster, faults
from kilim.lab.app import NAMESPACES, app_pods
from kilim.lab.asking import ask_probes
from kilim.lab.client import ControlPlane, agent_status
from kilim.lab.commands import agent_socket, replica_targets
from kilim.lab.demo.show import Show
from kilim.lab.demo.traffic import Counts, Traffic, traffic_between
from kilim.lab.errors import LabError
from kilim.lab.interrupt import build_in_thread, cancelled_by_sigterm
from kilim.lab.names import DEFAULT_LAB
from kilim.lab.pods import add_pods, running_pods
from kilim.lab.probe import Verdict
from kilim.lab.scenario import Probe
from kilim.lab.topology import Lab, default_node_plans
from kilim.v1 import agent_pb2

_FLOWS = (
    ("shop/frontend", "shop/api", 8080, "TCP", "allow"),
    ("shop/api", "shop/db", 5432, "TCP", "allow"),
    ("shop/api", "shop/cache", 6379, "TCP", "allow"),
    ("shop/frontend", "shop/dns", 53, "UDP", "allow"),
    ("shop/db", "shop/dns", 53, "UDP", "allow"),
    ("monitoring/prometheus", "shop/api", 8080, "TCP", "allow"),
    ("shop/frontend", "shop/db", 5432, "TCP", "deny"),
    ("shop/frontend", "shop/cache", 6379, "TCP", "deny"),
    ("shop/db", "shop/api", 8080, "TCP", "deny"),
    ("monitoring/prometheus", "shop/db", 5432, "TCP", "deny"),
    ("shop/frontend", "shop/dns", 53, "TCP", "deny"),
    ("monitoring/prometheus", "shop/dns", 53, "UDP", "deny"),
)
_VICTIM_REPLICA, _VICTIM_NODE = "replica1", "node2"
_FLOW_BEFORE_S = _FLOW_AFTER_S = 1.5
_REBUILT_S = 20.0
_POLL_S = 0.05


async def run_demo(name: str = DEFAULT_LAB, keep: bool = False) -> int:
    """The exit status. The lab is gone afterwards, whatever happens, unless `keep`."""
    show = Show(chapters=6)
    with cancelled_by_sigterm():
        show.chapter("A cluster: 3 control plane replicas on etcd, 3 nodes with an agent each")
        lab = await cluster.bring_up(cluster.ClusterSpec(name, default_node_plans(3)), show.progress)
        try:
            await _tell(lab, show)
        except LabError as error:
            show.promise(False, str(error))
        finally:
            if not keep:
                cluster.take_down(name)
    return _end(show, name, keep)


async def _tell(lab: Lab, show: Show) -> None:
    async with ControlPlane(replica_targets(lab)) as plane:
        await _start_app(lab, plane, show)
        await _before_policy(lab, show)
        await _apply_policy(lab, plane, show)
        await _after_policy(lab, show)
        await _same_everywhere(lab, plane, show)
        await _kill(lab, plane, show)


async def _start_app(lab: Lab, plane: ControlPlane, show: Show) -> None:
    pods = await add_pods(lab, plane, NAMESPACES, app_pods(lab.nodes))
    show.progress(f"{len(pods)} pods, each connected by the CNI plugin kilim-cni")
    show.table(["POD", "NODE", "IPS"], [(pod.key, pod.node, " ".join(pod.ips)) for pod in pods])


async def _before_policy(lab: Lab, show: Show) -> None:
    show.chapter("Traffic before any policy")
    verdicts = await ask_probes(lab, _probes(before=True))
    _show_traffic(show, verdicts)
    show.promise(all(v.got == "allow" for v in verdicts), "everything is allowed, over IPv4 and IPv6 alike")


async def _apply_policy(lab: Lab, plane: ControlPlane, show: Show) -> None:
    show.chapter("Policy: plain Kubernetes NetworkPolicy, as `kilim apply -f` sends it")
    for file in policy_files():
        objects = [(file.name, body) for body in yaml.safe_load_all(file.read_text())]
        began = time.monotonic()
        seq = await plane.apply(objects)
        await plane.wait(seq)
        took_ms = (time.monotonic() - began) * 1000
        kinds = ", ".join(f"{body['metadata']['namespace']}/{body['metadata']['name']}" for _, body in objects)
        show.line(f"{file.name:20} {kinds:28} event {seq:3}, enforced on every node after {took_ms:.0f} ms")


async def _after_policy(lab: Lab, show: Show) -> None:
    show.chapter("The same traffic under policy")
    probes = _probes()
    verdicts = await ask_probes(lab, probes)
    _show_traffic(show, verdicts)
    wrong = [f"{p.source} to {p.target}: {v.got}" for p, v in zip(probes, verdicts, strict=True) if v.got != p.expect]
    show.promise(not wrong, "exactly what the policies say is allowed, over both", ", ".join(wrong))
    silent = [v for v in verdicts if v.got == "deny" and v.drop_reason is None]
    show.promise(not silent, "every drop was recorded by a node, with its reason")


async def _same_everywhere(lab: Lab, plane: ControlPlane, show: Show) -> None:
    show.chapter("One log, the same state on every node")
    answer = await plane.status()
    rows = [("control plane", str(answer.seq), answer.state_digest.hex()[:16], "")]
    rows += [(n.name, str(n.seq), n.state_digest.hex()[:16], n.table_digest.hex()[:16]) for n in answer.nodes]
    show.table(["", "SEQ", "STATE DIGEST", "DIGEST OF ITS BPF TABLES"], rows)
    same = {(node.seq, node.state_digest) for node in answer.nodes} == {(answer.seq, answer.state_digest)}
    show.promise(same, f"{len(answer.nodes)} nodes and the control plane agree on event {answer.seq} and its digest")


async def _kill(lab: Lab, plane: ControlPlane, show: Show) -> None:
    show.chapter(f"kill -9 {_VICTIM_REPLICA} and the agent of {_VICTIM_NODE}, while traffic flows")
    before = await _agent(lab)
    traffic = _traffic(lab)
    await traffic.start()
    try:
        await asyncio.sleep(_FLOW_BEFORE_S)
        for victim in (_VICTIM_REPLICA, _VICTIM_NODE):
            show.line(f"kill -9 {faults.kill(lab, victim)}  ({'agent of ' if victim == _VICTIM_NODE else ''}{victim})")
        await asyncio.sleep(_FLOW_AFTER_S)
        killed = time.monotonic()
        await build_in_thread(lambda: faults.restart(lab, _VICTIM_NODE))
        after = await _rebuilt_agent(lab)
        show.line(f"agent of {_VICTIM_NODE} started again: tables complete after {time.monotonic() - killed:.1f} s")
        await build_in_thread(lambda: faults.restart(lab, _VICTIM_REPLICA))
        await asyncio.sleep(_FLOW_AFTER_S)
        await traffic.stop()
    finally:
        await traffic.abandon()
    _show_counts(show, traffic)
    show.promise(after.table_digest == before.table_digest, f"the agent rebuilt the same tables: {_short(after)}")
    await plane.wait((await plane.status()).seq)
    show.promise(True, "every node enforces the newest event again")


def _show_counts(show: Show, traffic: Traffic) -> None:
    def promise(counts: Counts, what: str, wrong: str) -> None:
        show.promise(
            counts.done > 0 and counts.wrong == 0, f"{what}: {counts.done}, {wrong}: {counts.wrong}", counts.first_wrong
        )

    promise(traffic.stream, "messages on a connection that was open all the time", "lost")
    promise(traffic.allowed, "new connections that policy allows, TCP and UDP", "failed")
    promise(traffic.denied, "attempts that policy denies", "leaked")


def _traffic(lab: Lab) -> Traffic:
    """Over both families; what is open all the time is of IPv6."""
    pods = running_pods(lab)
    families = [{pod.key: (Path(pod.netns), pod.ips[number]) for pod in pods} for number in (1, 0)]
    allowed = [traffic_between(places, probe) for places in families for probe in _probes() if probe.expect == "allow"]
    denied = [traffic_between(places, probe) for places in families for probe in _probes() if probe.expect == "deny"]
    return Traffic(allowed[0], allowed, denied)


async def _agent(lab: Lab) -> agent_pb2.AgentStatusResponse:
    answer = await agent_status(agent_socket(lab, _VICTIM_NODE))
    if answer is None:
        raise LabError(f"the agent of {_VICTIM_NODE} does not answer")
    return answer


async def _rebuilt_agent(lab: Lab) -> agent_pb2.AgentStatusResponse:
    deadline = time.monotonic() + _REBUILT_S
    while time.monotonic() < deadline:
        answer = await agent_status(agent_socket(lab, _VICTIM_NODE))
        if answer is not None and answer.in_sync:
            return answer
        await asyncio.sleep(_POLL_S)
    raise LabError(f"the agent of {_VICTIM_NODE} is not back after {_REBUILT_S:g} s")


def policy_files() -> list[Path]:
    directory = Path(__file__).resolve().parent
    here = Path.cwd()
    return sorted((directory.relative_to(here) if directory.is_relative_to(here) else directory).glob("*.yaml"))


def _probes(before: bool = False) -> list[Probe]:
    return [Probe(s, t, port, protocol, "allow" if before else expect, {}) for s, t, port, protocol, expect in _FLOWS]


def _show_traffic(show: Show, verdicts: Sequence[Verdict]) -> None:
    words = {"allow": "allowed", "deny": "dropped"}
    show.table(
        ["FROM", "TO", "PORT", "", "REASON"],
        [
            (source, target, f"{port}/{protocol}", words.get(v.got, v.got), v.drop_reason or v.message)
            for (source, target, port, protocol, _), v in zip(_FLOWS, verdicts, strict=True)
        ],
    )


def _short(status: agent_pb2.AgentStatusResponse) -> str:
    return f"{status.table_digest.hex()[:16]} at event {status.seq}"


def _end(show: Show, name: str, keep: bool) -> int:
    show.line("")
    if show.failures:
        show.line(f"{len(show.failures)} of the promises above did not hold, after {show.elapsed_s:.0f} s.")
        return 1
    show.line(f"All of it held, in {show.elapsed_s:.0f} s.")
    suffix = "" if name == DEFAULT_LAB else f" --name {name}"
    show.line("The lab is still up. Try:" if keep else "The lab is gone again. To play with one:")
    if not keep:
        show.line(f"  kilim lab up{suffix}")
    for command in (
        "kilim status",
        "kilim get pods -A",
        f"kilim apply -f {policy_files()[0].parent}",
        f"kilim lab probe shop/frontend shop/db -p 5432{suffix}",
        f"kilim lab exec shop/frontend{suffix} -- ip address",
        "kilim log tail",
        f"kilim lab down{suffix}",
    ):
        show.line(f"  {command}")
    return 0
