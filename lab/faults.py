"""Killing, pausing, cutting off, filling disks and setting clocks: any process of a lab, any member of its underlay.

A node's name stands for its agent where a process is meant, and for the node itself where the network is meant.
"""

import signal
from pathlib import Path

from kilim.lab import clock, disk, fabric
from kilim.lab.commands import process_spec
from kilim.lab.errors import BadInput, LabError
from kilim.lab.names import external_role
from kilim.lab.process import signal_process, start_process, stop_process
from kilim.lab.topology import Lab


def kill(lab: Lab, process: str, number: signal.Signals = signal.SIGKILL) -> int:
    """The pid that was there."""
    return signal_process(lab.name, _checked_process(lab, process), number)


def pause(lab: Lab, process: str) -> int:
    return kill(lab, process, signal.SIGSTOP)


def resume(lab: Lab, process: str) -> int:
    return kill(lab, process, signal.SIGCONT)


def restart(lab: Lab, process: str) -> int:
    """Ends it where it runs and starts it again with the same command line; the new pid."""
    spec = process_spec(lab, _checked_process(lab, process))
    assert spec is not None
    stop_process(lab.name, process)
    return start_process(lab.name, spec)


def partition(lab: Lab, member: str, other: str | None = None) -> None:
    """One member off from all the rest, or two from each other; packets vanish silently."""
    first = _checked_member(lab, member)
    if other is None:
        fabric.set_cable(lab, first[0], up=False)
    else:
        fabric.cut_pair(lab, first, _checked_member(lab, other))


def heal(lab: Lab, member: str | None = None, other: str | None = None) -> None:
    """Undoes partitions: of two members from each other, all of one member, or every one."""
    if member is not None and other is not None:
        fabric.join_pair(lab, _checked_member(lab, member), _checked_member(lab, other))
        return
    members = _members(lab)
    chosen = [_checked_member(lab, member)] if member else list(members.values())
    for first in chosen:
        fabric.set_cable(lab, first[0], up=True)
        for second in members.values():
            if first != second:
                fabric.join_pair(lab, first, second)


async def etcd_leader(lab: Lab) -> str:
    """Who leads etcd now, as its members say."""
    from kilim.kvstore.client import EtcdClient  # gRPC takes long to import, and the other verbs need none

    client = EtcdClient([f"http://{member.loopback}" for member in lab.etcd])
    try:
        statuses = await client.maintenance.status()
    finally:
        await client.close()
    for member, status in zip(lab.etcd, statuses, strict=True):
        if status.is_leader:
            return member.name
    raise LabError(f"etcd of lab {lab.name} has no leader now")


def fill_disk(lab: Lab, member: str) -> int:
    """Not a byte more fits on the disk of that etcd member; bytes of ballast."""
    return disk.fill_disk(_checked_disk(lab, member))


def free_disk(lab: Lab, member: str) -> None:
    disk.free_disk(_checked_disk(lab, member))


def set_clock(lab: Lab, process: str, offset_s: int) -> None:
    """The wall clock of a replica or agent, from now on that far from the machine's; a restart keeps it."""
    if process not in {*lab.agent_processes, *(replica.name for replica in lab.replicas)}:
        raise BadInput(f"{process!r} is no replica and no agent of lab {lab.name}: its clock cannot be set")
    clock.set_clock(lab, process, offset_s)


def _checked_disk(lab: Lab, member: str) -> Path:
    if member not in {each.name for each in lab.etcd}:
        raise BadInput(f"{member!r} is no etcd member of lab {lab.name}: only those have disks of their own")
    if not lab.etcd_disk_mib:
        raise BadInput(f"the etcd members of lab {lab.name} have no disks of their own")
    return lab.run_dir / member


def _checked_process(lab: Lab, name: str) -> str:
    if name not in lab.process_names:
        raise BadInput(f"lab {lab.name} has no process {name!r} (it has {', '.join(lab.process_names)})")
    return name


def _checked_member(lab: Lab, name: str) -> fabric.Place:
    members = _members(lab)
    if name not in members:
        raise BadInput(f"{name!r} is not on the underlay of lab {lab.name} ({', '.join(members)} are)")
    return members[name]


def _members(lab: Lab) -> dict[str, fabric.Place]:
    """Everything that has a cable, by the name that users give it."""
    members: dict[str, fabric.Place] = {
        server.name: (server.name, (server.ip,)) for server in (*lab.etcd, *lab.replicas)
    }
    members |= {node.name: (node.name, node.ips) for node in lab.nodes}
    return members | {f"ext:{e.name}": (external_role(e.name), e.ips) for e in lab.externals}
