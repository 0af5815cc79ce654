"""The datapath of one node. Restarting it over the same directory changes no packet's fate: programs are loaded beside
those that run, over the same maps, and take over link by link in the attach calls. So: load, write tables, attach."""

import os
import shutil
from pathlib import Path

from kilim.agent.bpf import attach, bpffs, syscall
from kilim.agent.bpf.counters import Counted, read_counters
from kilim.agent.bpf.maps import Maps
from kilim.agent.bpf.objects import LoadedPrograms, Settings, load_programs
from kilim.agent.bpf.ringbuf import RingReader
from kilim.agent.bpf.tables import KernelTables

__all__ = ["Datapath", "Settings", "load_objects", "remove_all"]

OVERLAY_LINK = "overlay"
NETDEV_LINK_PREFIX = "netdev-"


class Datapath:
    """Loaded programs and open maps. The attach calls resolve an ifindex in the calling thread's network namespace."""

    def __init__(self, programs: LoadedPrograms, bpf_root: Path) -> None:
        self._programs = programs
        self._links = bpf_root / "links"
        self.maps = Maps(bpf_root / "maps")
        self.tables = KernelTables(self.maps)
        self.events = RingReader(syscall.open_pinned(bpf_root / "maps" / "events"))
        self._metrics_fd = syscall.open_pinned(bpf_root / "maps" / "metrics")

    @property
    def replaced_maps(self) -> tuple[str, ...]:
        """Maps of another shape that were found and started anew: their rows are gone, the tables must be written."""
        return self._programs.replaced_maps

    @property
    def instructions(self) -> dict[str, int]:
        """Instructions the verifier walked through, by program."""
        return self._programs.processed_instructions

    def program_fd(self, name: str) -> int:
        return self._programs.fds[name]

    def attach_endpoint(self, ifindex: int, name: str) -> None:
        """Both directions of a pod, at the host's side of its veth pair. `name` (its interface name) names the pins."""
        attach.attach(self.program_fd("to_endpoint"), ifindex, syscall.TCX_EGRESS, self._pin(f"{name}-to"))
        attach.attach(self.program_fd("from_endpoint"), ifindex, syscall.TCX_INGRESS, self._pin(f"{name}-from"))

    def detach_endpoint(self, name: str) -> None:
        attach.detach(self._pin(f"{name}-from"))
        attach.detach(self._pin(f"{name}-to"))

    def attach_overlay(self, ifindex: int) -> None:
        """The collect-metadata vxlan device."""
        attach.attach(self.program_fd("overlay"), ifindex, syscall.TCX_INGRESS, self._pin(OVERLAY_LINK))

    def attach_netdev(self, ifindex: int, name: str = "underlay") -> None:
        """A device towards the wire; `name` tells several apart."""
        pin = self._pin(NETDEV_LINK_PREFIX + name)
        attach.attach(self.program_fd("from_netdev"), ifindex, syscall.TCX_INGRESS, pin)

    def links(self) -> dict[str, syscall.LinkInfo]:
        """All that is attached by pin name, also by an agent before this one; ifindex 0: the device is gone."""
        return attach.read_links(self._links)

    def detach_gone(self) -> list[str]:
        """Remove the pins of links whose device is gone, and say which."""
        gone = [name for name, link in self.links().items() if not link.ifindex]
        for name in gone:
            attach.detach(self._links / name)
        return gone

    def counters(self) -> list[Counted]:
        return read_counters(self._metrics_fd)

    def close(self) -> None:
        """Everything goes on running."""
        self.events.close()
        self.maps.close()
        os.close(self._metrics_fd)
        for fd in self._programs.fds.values():
            os.close(fd)

    def _pin(self, name: str) -> Path:
        if not name or "/" in name or "." in name:  # bpffs keeps names with a dot for itself
            raise ValueError(f"{name!r} cannot name a pin")
        return self._links / name


def load_objects(settings: Settings, bpf_root: str | Path) -> Datapath:
    """Load every program over the maps pinned under `bpf_root`, creating what is missing."""
    root = Path(bpf_root)
    bpffs.ensure_bpffs(root)
    return Datapath(load_programs(settings, root / "maps"), root)


def remove_all(bpf_root: str | Path) -> None:
    """Detach everything and remove every pin: the node is left without our datapath. Idempotent."""
    root = Path(bpf_root)
    links = root / "links"
    for pin in sorted(links.iterdir()) if links.is_dir() else ():
        attach.detach(pin)
    shutil.rmtree(root, ignore_errors=True)
