"""The datapath of one node. Restarting it over the same directory changes no packet's fate: programs are loaded beside
those that run, over the same maps, and take over hook by hook in the attach calls. So: load, write tables, attach.

A map whose layout is another after an upgrade, or whose size after a change of settings, lies beside the old one under
a name of its own (agent/bpf/pins.py), with its content (agent/bpf/migrate.py): programs in force keep theirs until
their hook is taken over. So around the attach calls stand `begin_takeover` and `end_takeover`.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from kilim.agent.bpf import bpffs, sockops, syscall
from kilim.agent.bpf.counters import Counted, read_counters
from kilim.agent.bpf.hooks import AttachMode, Hooks, remove_hooks
from kilim.agent.bpf.maps import Maps
from kilim.agent.bpf.migrate import Migration
from kilim.agent.bpf.objects import LoadedPrograms, Settings, load_programs
from kilim.agent.bpf.ringbuf import RingReader
from kilim.agent.bpf.tables import KernelTables

__all__ = ["Datapath", "Settings", "load_objects", "remove_all"]

OVERLAY_LINK = "overlay"
NETDEV_LINK_PREFIX = "netdev-"


class Datapath:
    """Loaded programs and open maps. Devices are those of the calling thread's network namespace."""

    def __init__(self, programs: LoadedPrograms, migration: Migration, bpf_root: Path, attach_mode: AttachMode) -> None:
        self._programs = programs
        self._migration = migration
        self._hooks = Hooks(attach_mode, bpf_root / "links", self.program_fd("to_endpoint"))
        self._root = bpf_root
        self.maps = Maps(programs.pins)
        self.sockops: sockops.Sockops | None = None
        if programs.sockops_version:
            self.sockops = sockops.Sockops(programs.fds, self.maps, programs.pins, programs.sockops_version, bpf_root)
        self.tables = KernelTables(self.maps)
        self.events = RingReader(syscall.open_pinned(programs.pins["events"]))
        self._metrics_fd = syscall.open_pinned(programs.pins["metrics"])

    @property
    def map_names(self) -> Sequence[str]:
        return list(self._programs.pins)

    @property
    def moved_rows(self) -> Mapping[str, int]:
        """By map whose layout was another: how many rows came along."""
        return self._migration.moved

    @property
    def maps_anew(self) -> Sequence[str]:
        """Maps whose old content cannot be had in the new layout. They are empty."""
        return self._migration.anew

    def begin_takeover(self) -> None:
        """Right before what hangs in the hooks already is attached anew. Blocking, where there is something to move."""
        self._migration.catch_up()

    def end_takeover(self) -> None:
        """After all of it: what programs of other settings, or over other maps, have noted until now holds no more, and
        maps of other layouts go. Without it the next start does that."""
        syscall.wait_for_programs()
        self.tables.advance_epochs()
        self._migration.finish()

    @property
    def instructions(self) -> dict[str, int]:
        """Instructions the verifier walked through, by program."""
        return self._programs.processed_instructions

    def program_fd(self, name: str) -> int:
        return self._programs.fds[name]

    @property
    def attach_mode(self) -> AttachMode:
        """What `auto` came to."""
        return "tcx" if self._hooks.uses_tcx else "clsact"

    def attach_endpoint(self, ifindex: int, name: str) -> None:
        """Both directions of a pod, at the host's side of its veth pair, the interface `name`."""
        self._hooks.attach(self.program_fd("to_endpoint"), ifindex, syscall.TCX_EGRESS, f"{name}-to")
        self._hooks.attach(self.program_fd("from_endpoint"), ifindex, syscall.TCX_INGRESS, f"{name}-from")

    def detach_endpoint(self, name: str) -> None:
        self._hooks.detach([f"{name}-from", f"{name}-to"], name)

    def attach_overlay(self, ifindex: int) -> None:
        """The collect-metadata vxlan device."""
        self._hooks.attach(self.program_fd("overlay"), ifindex, syscall.TCX_INGRESS, OVERLAY_LINK)

    def detach_overlay(self) -> None:
        """Idempotent; where there is no tunnel any more."""
        self._hooks.detach([OVERLAY_LINK], "")

    def attach_netdevs(self, underlay: int, others: Sequence[int] = ()) -> None:
        """Devices towards the wire, by index; from any that is none of these it is detached."""
        wanted = {f"{NETDEV_LINK_PREFIX}underlay": underlay}
        wanted |= {f"{NETDEV_LINK_PREFIX}{ifindex}": ifindex for ifindex in others}
        for link, ifindex in wanted.items():
            self._hooks.attach(self.program_fd("from_netdev"), ifindex, syscall.TCX_INGRESS, link)
            self._hooks.detach_elsewhere(link, ifindex)
        for link, held in self._hooks.read().items():
            if link.startswith(NETDEV_LINK_PREFIX) and link not in wanted:
                self._hooks.detach_from([link], held.ifindex)

    def attach_sockops(self, cgroup_root: Path | None) -> None:
        """If they are loaded; otherwise what is attached by an agent before this one goes. None: where cgroup v2 is
        mounted. Raises OSError."""
        if self.sockops is None:
            sockops.remove(self._root)
            if self._programs.sockops_failure:
                raise OSError(self._programs.sockops_failure)
            return
        try:
            self.sockops.attach(cgroup_root)
        except OSError:
            sockops.remove(self._root)
            raise

    def links(self) -> dict[str, syscall.LinkInfo]:
        """All that is attached by name, also by an agent before this one; ifindex 0: the device is gone."""
        return self._hooks.read()

    def detach_gone(self) -> list[str]:
        """Remove the pins of links whose device is gone, and say which."""
        return self._hooks.detach_gone()

    def counters(self) -> list[Counted]:
        return read_counters(self._metrics_fd)

    def close(self) -> None:
        """Everything goes on running."""
        self.events.close()
        self.maps.close()
        os.close(self._metrics_fd)
        for fd in self._programs.fds.values():
            os.close(fd)


def load_objects(settings: Settings, bpf_root: str | Path) -> Datapath:
    """Load every program over the maps pinned under `bpf_root`, creating what is missing."""
    root = Path(bpf_root)
    bpffs.ensure_bpffs(root)
    return Datapath(*load_programs(settings, root / "maps"), root, settings.attach)


def remove_all(bpf_root: str | Path) -> None:
    """Detach everything and remove every pin: the node is left without our datapath. Idempotent. Filters are removed
    from the devices of the calling thread's network namespace."""
    root = Path(bpf_root)
    sockops.remove(root)
    remove_hooks(root / "links")
    shutil.rmtree(root, ignore_errors=True)
