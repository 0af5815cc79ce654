"""What the command line calls. Errors are `BadInput` (exit status 2) and `LabError` (1), one line each.

Functions that only look or touch the kernel are plain; those that speak to processes are coroutines.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilim.lab import cluster, faults
from kilim.lab.disk import LEAST_MIB
from kilim.lab.errors import BadInput
from kilim.lab.names import DEFAULT_LAB, pod_role
from kilim.lab.process import run_attached
from kilim.lab.topology import IP_FAMILIES, MAX_ETCD, MAX_REPLICAS, Lab, Pod, Port, default_node_plans, load_lab
from kilim.model.protocols import PROTOCOLS


async def up(
    name: str = DEFAULT_LAB,
    nodes: int = 3,
    replicas: int = 3,
    etcd_members: int = 1,
    app: bool = True,
    progress: cluster.Progress = cluster.silent,
    etcd_disk_mib: int = 0,
    clock_library: str = "",
    ip_families: tuple[str, ...] = IP_FAMILIES,
    agent_options: tuple[str, ...] = (),
    routed_pods: bool = True,
) -> Lab:
    """A cluster that stays; with `app` its six pods run. Nothing is left where it fails."""
    _check_count("replicas", replicas, MAX_REPLICAS)
    _check_count("etcd members", etcd_members, MAX_ETCD)
    if etcd_disk_mib and etcd_disk_mib < LEAST_MIB:
        raise BadInput(f"etcd disk: must be at least {LEAST_MIB} MiB, not {etcd_disk_mib}")
    plans = default_node_plans(nodes, families=ip_families)
    spec = cluster.ClusterSpec(
        name,
        plans,
        replicas,
        etcd_members,
        etcd_disk_mib=etcd_disk_mib,
        clock_library=clock_library,
        agent_options=agent_options,
        routed_pods=routed_pods,
    )
    lab = await cluster.bring_up(spec, progress)
    if app:
        try:
            await _start_app(lab, progress)
        except BaseException:
            cluster.take_down(name)
            raise
    return lab


def down(name: str = DEFAULT_LAB) -> bool:
    """Removes every trace, also after a crash; false where there was none."""
    cluster.check_root()
    return cluster.take_down(name)


def list_labs() -> list[str]:
    return sorted(cluster.existing_labs())


async def status(name: str = DEFAULT_LAB) -> dict[str, Any]:
    from kilim.lab.status import lab_status

    return await lab_status(load_lab(name))


async def add_pod(
    name: str,
    pod: str,
    node: str | None = None,
    ip: str | None = None,
    labels: dict[str, str] | None = None,
    ports: Sequence[str] = (),
    service_account: str = "default",
) -> dict[str, Any]:
    """`pod` is `namespace/name`, `ports` are `8080`, `8080/TCP` or `8080/TCP/http`. Answers as in `status`."""
    from kilim.lab.client import ControlPlane
    from kilim.lab.commands import replica_targets
    from kilim.lab.pods import add_pods
    from kilim.lab.status import pod_status

    lab = _own_lab(name)
    namespace, _, pod_name = pod.partition("/")
    if not namespace or not pod_name:
        raise BadInput(f"pod {pod!r}: must be NAMESPACE/NAME")
    wanted = Pod(namespace, pod_name, labels or {}, tuple(parse_port(p) for p in ports), node, ip, service_account)
    async with ControlPlane(replica_targets(lab)) as plane:
        new = {} if await plane.exists("Namespace", "", namespace) else {namespace: dict[str, str]()}
        (running,) = await add_pods(lab, plane, new, [wanted])
    return await pod_status(lab, running)


async def remove_pod(name: str, pod: str) -> None:
    from kilim.lab import pods
    from kilim.lab.client import ControlPlane
    from kilim.lab.commands import replica_targets

    lab = _own_lab(name)
    async with ControlPlane(replica_targets(lab)) as plane:
        await pods.remove_pod(lab, plane, pod)


def exec_in_pod(name: str, pod: str, argv: Sequence[str]) -> int:
    """The command in the pod's network namespace with this command's own stdio; its exit status."""
    from kilim.lab.pods import running_pod

    running = running_pod(_own_lab(name), pod)
    role = pod_role(running.pod.namespace, running.pod.name)
    return run_attached(name, role, Path(running.netns), argv)


async def probe(
    name: str, source: str, target: str, port: int, protocol: str = "TCP", family: str = ""
) -> dict[str, Any]:
    """One probe as in a scenario, `{"from", "to", "port", "protocol", "got", "drop_reason"[, "message"]}`."""
    from kilim.lab.asking import ask_probes
    from kilim.lab.scenario import PROBED, Probe

    if protocol not in PROBED:
        raise BadInput(f"protocol {protocol!r}: must be one of {', '.join(PROBED)}")
    written = {"from": source, "to": target, "port": port, "protocol": protocol}
    written |= {"ipFamily": family} if family else {}
    (verdict,) = await ask_probes(_own_lab(name), [Probe(source, target, port, protocol, None, written, family)])
    answer = {**written, "got": verdict.got, "drop_reason": verdict.drop_reason}
    return answer | ({"message": verdict.message} if verdict.message else {})


def kill(name: str, process: str, number: signal.Signals = signal.SIGKILL) -> int:
    return faults.kill(_own_lab(name), process, number)


def pause(name: str, process: str) -> int:
    return faults.pause(_own_lab(name), process)


def resume(name: str, process: str) -> int:
    return faults.resume(_own_lab(name), process)


def restart(name: str, process: str) -> int:
    return faults.restart(_own_lab(name), process)


def partition(name: str, member: str, other: str | None = None) -> None:
    faults.partition(_own_lab(name), member, other)


def heal(name: str, member: str | None = None, other: str | None = None) -> None:
    faults.heal(_own_lab(name), member, other)


def parse_port(text: str) -> Port:
    number, _, rest = text.partition("/")
    protocol, _, port_name = rest.partition("/")
    if not number.isdigit() or not 1 <= int(number) <= 65535 or (protocol or "TCP") not in PROTOCOLS:
        raise BadInput(f"port {text!r}: must be NUMBER[/TCP|UDP|SCTP[/NAME]]")
    return Port(int(number), protocol or "TCP", port_name)


async def _start_app(lab: Lab, progress: cluster.Progress) -> None:
    from kilim.lab.app import NAMESPACES, app_pods
    from kilim.lab.client import ControlPlane
    from kilim.lab.commands import replica_targets
    from kilim.lab.pods import add_pods

    pods = app_pods(lab.nodes)
    progress(f"{len(pods)} pods by CNI")
    async with ControlPlane(replica_targets(lab)) as plane:
        await add_pods(lab, plane, NAMESPACES, pods)


def _own_lab(name: str) -> Lab:
    cluster.check_root()
    return load_lab(name)


def _check_count(what: str, count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise BadInput(f"{what}: must be 1 to {limit}, not {count}")
