"""Brings a cluster up and takes it down without a trace, also after a crash of anything.

`up` starts everything at once, for starting Python costs more than all the rest; the processes wait for one another.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kilim.lab import cgroup, commands, names
from kilim.lab.client import ControlPlane
from kilim.lab.disk import mount_disk, unmount_disks_below
from kilim.lab.errors import LabError
from kilim.lab.interrupt import build_in_thread
from kilim.lab.netns import delete_netns
from kilim.lab.process import log_tail, pid_of, program, start_process, wait_until
from kilim.lab.topology import (
    POD_POOL,
    SERVER_PORT,
    External,
    Lab,
    NodePlan,
    families_of,
    planned_etcd,
    planned_nodes,
    planned_replicas,
    save_lab,
)

Progress = Callable[[str], None]
_ETCD_LOOPBACK_PORT = 42379
_READY_S = 40.0
_POLL_S = 0.05


def silent(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    name: str
    nodes: tuple[NodePlan, ...]
    replicas: int = 3
    etcd_members: int = 1
    externals: tuple[External, ...] = ()
    pool: str = str(POD_POOL)
    etcd_disk_mib: int = 0
    clock_library: str = ""
    agent_options: tuple[str, ...] = ()
    routed_pods: bool = True

    @property
    def ip_families(self) -> tuple[str, ...]:
        """Those that pods have addresses of."""
        return families_of(cidr for node in self.nodes for cidr in node.pod_cidrs)


def check_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root (network namespaces, BPF): run it with sudo")


def check_machine() -> None:
    """One line for the first thing this machine lacks."""
    check_root()
    cgroup.lab_cgroup("any")
    if not Path("/proc/self/ns/net").exists():
        raise LabError("the lab needs a kernel with network namespaces")
    if shutil.which("nsenter") is None:
        raise LabError("the lab needs nsenter (package util-linux)")
    commands.etcd_program()
    program("kilim-cni")
    if not os.path.ismount(names.BPFFS):
        mounted = subprocess.run(["mount", "-t", "bpf", "bpf", str(names.BPFFS)], capture_output=True, text=True)
        if mounted.returncode != 0:
            raise LabError(f"the lab needs a kernel with BPF: mounting {names.BPFFS}: {mounted.stderr.strip()}")


async def bring_up(spec: ClusterSpec, progress: Progress = silent) -> Lab:
    """A cluster without pods, every node enforcing; nothing is left where it fails."""
    check_machine()
    names.checked_lab_name(spec.name)
    if spec.name in existing_labs():
        raise LabError(f"lab {spec.name!r} is up already, or left from a crash (kilim lab down --name {spec.name})")
    try:
        progress("namespaces and underlay")
        lab = await build_in_thread(lambda: lay_out(spec))
        progress(f"starting {len(lab.etcd)} etcd, {len(lab.replicas)} replicas, {len(lab.nodes)} agents")
        await build_in_thread(lambda: _start_all(lab))
        await wait_ready(lab, progress)
    except BaseException:
        take_down(spec.name)
        raise
    return lab


def take_down(name: str) -> bool:
    """Removes whatever bears the lab's name; true where there was anything. Needs no memory of the lab."""
    names.checked_lab_name(name)
    existed = name in existing_labs()
    if cgroup.cgroup2_mount() is not None:
        cgroup.remove_cgroup(cgroup.lab_cgroup(name))
        _remove_if_empty(cgroup.lab_cgroup(name).parent)
    for path in lab_namespaces(name):
        delete_netns(path)
    unmount_disks_below(names.run_dir(name))
    for directory in (names.pin_dir(name), names.run_dir(name)):
        shutil.rmtree(directory, ignore_errors=True)
    for parent in (names.PIN_ROOT, names.RUN_ROOT, names.RUN_ROOT.parent):
        _remove_if_empty(parent)
    return existed


def existing_labs() -> set[str]:
    """Every lab of which there is a trace."""
    found = names.lab_names_of(_netns_files()) | cgroup.labs_with_cgroups()
    for root in (names.RUN_ROOT, names.PIN_ROOT):
        if root.is_dir():
            found |= {entry.name for entry in root.iterdir() if entry.is_dir()}
    return found


def lab_namespaces(name: str) -> list[Path]:
    prefix = names.netns_prefix(name)
    return [names.NETNS_DIR / file for file in _netns_files() if file.startswith(prefix)]


async def wait_ready(lab: Lab, progress: Progress = silent) -> None:
    sockets = [lab.run_dir / "workloads.sock", *(Path(commands.cni_socket(lab, n.name)) for n in lab.nodes)]
    try:
        async with asyncio.timeout(_READY_S), ControlPlane(commands.replica_targets(lab), _READY_S) as plane:
            watch = asyncio.create_task(_fail_on_exit(lab), name="watch processes")
            try:
                ready = asyncio.create_task(_nodes_up(lab, plane, progress), name="nodes up")
                await asyncio.wait({watch, ready}, return_when=asyncio.FIRST_COMPLETED)
                await (ready if ready.done() else watch)
            finally:
                watch.cancel()
                ready.cancel()
        for path in sockets:
            await wait_until(f"{path} to exist", path.exists, 10.0)
    except TimeoutError:
        raise LabError(f"the lab is not ready after {_READY_S:g} s: {await _what_is_missing(lab)}") from None


async def _nodes_up(lab: Lab, plane: ControlPlane, progress: Progress) -> None:
    shown: set[str] = set()
    while True:
        status = await plane.status()
        up = {node.name for node in status.nodes if node.up}
        for node in sorted(up - shown):
            progress(f"{node} is up")
        shown |= up
        if up >= {node.name for node in lab.nodes}:
            return
        await asyncio.sleep(_POLL_S)


async def _fail_on_exit(lab: Lab) -> None:
    while True:
        for name in lab.process_names:
            if pid_of(lab.name, name) is None:
                raise LabError(f"{name} ended at its start: {log_tail(lab.run_dir / 'logs' / f'{name}.log')}")
        await asyncio.sleep(_POLL_S * 4)


async def _what_is_missing(lab: Lab) -> str:
    try:
        async with ControlPlane(commands.replica_targets(lab), 1.0) as plane:
            status = await plane.status()
    except LabError as error:
        return str(error)
    down = [node.name for node in lab.nodes if node.name not in {n.name for n in status.nodes if n.up}]
    logs = "; ".join(f"{name}: {log_tail(lab.run_dir / 'logs' / f'{name}.log', 1)}" for name in down)
    return f"nodes {', '.join(down)} are not up ({logs})"


def lay_out(spec: ClusterSpec) -> Lab:
    """Everything but the cluster's own processes: run directory, relay, namespaces and cables."""
    from kilim.lab.fabric import create_fabric
    from kilim.lab.relay import open_loopback_listener

    names.run_dir(spec.name).mkdir(parents=True)
    cgroup.create_cgroup(cgroup.lab_cgroup(spec.name))
    listeners = [open_loopback_listener(SERVER_PORT + i, 0) for i in range(spec.replicas)]
    listeners += [open_loopback_listener(_ETCD_LOOPBACK_PORT + i, 0) for i in range(spec.etcd_members)]
    ports = [listener.getsockname()[1] for listener in listeners]
    replicas = planned_replicas(ports[: spec.replicas], spec.ip_families)
    etcd = planned_etcd(ports[spec.replicas :], spec.ip_families)
    settings = (spec.externals, spec.etcd_disk_mib, spec.clock_library, spec.agent_options, spec.routed_pods)
    lab = Lab(spec.name, spec.pool, planned_nodes(spec.nodes), replicas, etcd, *settings)
    save_lab(lab)
    for member in lab.etcd:
        if lab.etcd_disk_mib:
            mount_disk(lab.run_dir / member.name, lab.etcd_disk_mib)
    # the relay inherits the listeners, so that no other lab can take a port between choosing and using it
    start_process(lab.name, commands.relay_process(lab, tuple(listener.fileno() for listener in listeners)))
    for listener in listeners:
        listener.close()
    create_fabric(lab)
    return lab


def _start_all(lab: Lab) -> None:
    for node in lab.nodes:
        (names.pin_dir(lab.name) / node.name).mkdir(parents=True, exist_ok=True)
    for process in lab.process_names:
        spec = commands.process_spec(lab, process)
        if spec is not None and process != "relay":
            start_process(lab.name, spec)


def _netns_files() -> list[str]:
    return sorted(os.listdir(names.NETNS_DIR)) if names.NETNS_DIR.is_dir() else []


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        pass  # another lab lives there
