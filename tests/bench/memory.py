"""What a node of a lab holds: memory of its agent's process, and what the kernel charges for its maps."""

import os
from pathlib import Path

from kilim.agent.bpf import syscall
from kilim.agent.bpf.maps import Map
from kilim.agent.bpf.pins import find_pin
from kilim.lab.names import pin_dir
from kilim.lab.process import pid_of
from kilim.lab.topology import Lab

# ipcache too: each CIDR that a policy names is a row of it.
_POLICY_MAPS = ("policy", "subjects", "ipcache")


def agent_kib(lab: Lab, node: str) -> int:
    """Resident memory."""
    pid = pid_of(lab.name, node)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError("VmRSS")


def policy_maps_kib(lab: Lab, node: str) -> float:
    """As the kernel tells it (`memlock`). Of a trie that is 44 bytes a row; with what lies between rows and what the
    allocator rounds up it is three times that."""
    return sum(memlock(find_pin(_maps(lab, node), name)) for name in _POLICY_MAPS) / 1024


def policy_rows(lab: Lab, node: str) -> int:
    """Rows in the kernel, those that wait for being swept included."""
    policy = Map.open(find_pin(_maps(lab, node), "policy"))
    try:
        return len(policy.read()[0])
    finally:
        os.close(policy.fd)


def _maps(lab: Lab, node: str) -> Path:
    return pin_dir(lab.name) / node / "maps"


def memlock(path: Path) -> int:
    """Bytes that the kernel charges for the map that is pinned there."""
    fd = syscall.open_pinned(path)
    try:
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("memlock:"):
                return int(line.split()[1])
    finally:
        os.close(fd)
    raise LookupError("memlock")
