"""Loading the four programs of the datapath over one set of pinned maps."""

import os
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kilim.agent.bpf import layout, syscall
from kilim.agent.bpf.hooks import AttachMode
from kilim.agent.bpf.libbpf import LoadError, ObjectFile, ObjectMap
from kilim.model.address import mapped_or_zeros

PROGRAMS = ("from_endpoint", "to_endpoint", "overlay", "from_netdev")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node's programs are loaded with; see bpf/lib/settings.h. Addresses are those of model/address.py."""

    node_ip: int = 0  # 0: the node has no IPv4 address
    underlay_ifindex: int = 0  # 0: packets for outside are left to the node's stack
    tunnel_ifindex: int = 0  # 0: no overlay
    tunnel_port: int = 0  # UDP, the same on all nodes
    node_ipv6: int = 0  # 0: the node has no IPv6 address
    ct_max_entries: int = 262144
    events_bytes: int = 2 << 20  # of the ring buffer; a power of two
    ct_life_tcp_s: int = 8000
    ct_life_syn_s: int = 60
    ct_life_closing_s: int = 10
    ct_life_other_s: int = 60
    record_connections: bool = True
    wakeup_bytes: int = 65536
    attach: AttachMode = "auto"  # not the programs' concern; auto: tcx where the kernel has it

    def rodata(self) -> dict[str, bytes]:
        values = {
            "underlay_ifindex": self.underlay_ifindex,
            "tunnel_ifindex": self.tunnel_ifindex,
            "tunnel_port": self.tunnel_port,
            "ct_life_tcp": to_ticks(self.ct_life_tcp_s),
            "ct_life_syn": to_ticks(self.ct_life_syn_s),
            "ct_life_closing": to_ticks(self.ct_life_closing_s),
            "ct_life_other": to_ticks(self.ct_life_other_s),
            "record_connections": int(self.record_connections),
            "wakeup_bytes": self.wakeup_bytes,
        }
        packed = {name: value.to_bytes(4, "little") for name, value in values.items()}
        return packed | {
            "node_ipv4": mapped_or_zeros(self.node_ip),
            "node_ipv6": mapped_or_zeros(self.node_ipv6),
        }


@dataclass(frozen=True, slots=True)
class LoadedPrograms:
    fds: dict[str, int]
    processed_instructions: dict[str, int]
    replaced_maps: tuple[str, ...]  # pinned maps of another shape (an upgrade, a new size) that were started anew


def to_ticks(seconds: int) -> int:
    """Rounded up; the datapath's clock ticks every 2^30 ns."""
    return -(-seconds * 10**9 >> layout.TICK_SHIFT)


def object_path(program: str) -> Path:
    return Path(str(resources.files("kilim.bpf").joinpath(f"{program}.bpf.o")))


# Rows of one are numbers in the other. Were one started anew alone, programs in force, which keep the maps that they
# have, would find the other's rows changed for maps that they do not see.
_ONE_ANEW_ALL_ANEW = {"subjects", "policy"}


def _pin_maps(opened: ObjectFile, directory: Path, settings: Settings) -> list[str]:
    """Returns the names of the maps that could not be used again."""
    maps = [each for each in opened.maps() if not each.internal]
    sizes = {"ct": settings.ct_max_entries, "events": settings.events_bytes}
    replaced = set()
    for each in maps:
        if each.name in sizes:
            each.set_max_entries(sizes[each.name])
        path = directory / each.name
        if path.exists() and not _same_shape(each, path):
            replaced.add(each.name)
        each.set_pin_path(path)
    if replaced & _ONE_ANEW_ALL_ANEW:
        replaced |= _ONE_ANEW_ALL_ANEW
    for name in replaced:
        (directory / name).unlink(missing_ok=True)
    return sorted(replaced)


def _same_shape(each: ObjectMap, path: Path) -> bool:
    fd = syscall.open_pinned(path)
    try:
        info = syscall.map_info(fd)
    finally:
        os.close(fd)
    return each.shape == (info.type, info.key_size, info.value_size, info.max_entries, info.flags)


def load_program(program: str, settings: Settings, maps: Path, *, verbose: bool = False) -> LoadedPrograms:
    """One object. Raises LoadError with the verifier's log, LayoutMismatch."""
    with closing(ObjectFile(object_path(program))) as opened:
        layout.check_layout(opened.btf())
        opened.write_settings(settings.rodata())
        replaced = _pin_maps(opened, maps, settings)
        try:
            fds = opened.load(verbose=verbose)
        except LoadError:
            if verbose:
                raise
            return load_program(program, settings, maps, verbose=True)
        return LoadedPrograms(fds, {program: opened.processed_instructions()}, tuple(replaced))


def load_programs(settings: Settings, maps: Path) -> LoadedPrograms:
    """All objects; maps that are pinned in `maps` are used again. Nothing is attached yet."""
    all_programs = LoadedPrograms({}, {}, ())
    for program in PROGRAMS:
        loaded = load_program(program, settings, maps)
        all_programs = LoadedPrograms(
            all_programs.fds | loaded.fds,
            all_programs.processed_instructions | loaded.processed_instructions,
            all_programs.replaced_maps + loaded.replaced_maps,
        )
    return all_programs
