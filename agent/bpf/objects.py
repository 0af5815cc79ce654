"""Loading the programs of the datapath over one set of pinned maps."""

from contextlib import closing
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from kilim.agent.bpf import layout, sockops
from kilim.agent.bpf.hooks import AttachMode
from kilim.agent.bpf.libbpf import LoadError, ObjectFile
from kilim.agent.bpf.migrate import Migration
from kilim.agent.bpf.pins import pin_names
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
    masquerade_ipv4: bool = False
    masquerade_ipv6: bool = False
    masquerade_ports: tuple[int, int] = (10000, 29999)
    masquerade_exempts: bool = False  # whether the map `ipmasq` counts
    ct_max_entries: int = 262144
    nat_max_entries: int = 262144
    fragments_max_entries: int = 8192
    events_bytes: int = 2 << 20  # of the ring buffer; a power of two
    ct_life_tcp_s: int = 8000
    ct_life_syn_s: int = 60
    ct_life_closing_s: int = 10
    ct_life_other_s: int = 60
    record_connections: bool = True
    wakeup_bytes: int = 65536
    sockops: bool = False  # whether those between sockets are loaded too
    sockops_version: int = 0  # which, see agent/bpf/sockops.py; load_programs sets it
    attach: AttachMode = "auto"  # not the programs' concern; auto: tcx where the kernel has it

    def rodata(self) -> dict[str, bytes]:
        values = {
            "underlay_ifindex": self.underlay_ifindex,
            "tunnel_ifindex": self.tunnel_ifindex,
            "tunnel_port": self.tunnel_port,
            "masquerade_ipv4": int(self.masquerade_ipv4 and self.node_ip != 0),
            "masquerade_ipv6": int(self.masquerade_ipv6 and self.node_ipv6 != 0),
            "masquerade_port_min": self.masquerade_ports[0],
            "masquerade_port_max": self.masquerade_ports[1],
            "masquerade_exempts": int(self.masquerade_exempts),
            "ct_life_tcp": to_ticks(self.ct_life_tcp_s),
            "ct_life_syn": to_ticks(self.ct_life_syn_s),
            "ct_life_closing": to_ticks(self.ct_life_closing_s),
            "ct_life_other": to_ticks(self.ct_life_other_s),
            "sockops_version": self.sockops_version,
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
    pins: dict[str, Path]  # of maps, by name
    sockops_version: int = 0  # 0: they are not loaded
    sockops_failure: str = ""  # why not, though they were asked for


def to_ticks(seconds: int) -> int:
    """Rounded up; the datapath's clock ticks every 2^30 ns."""
    return -(-seconds * 10**9 >> layout.TICK_SHIFT)


def object_path(program: str) -> Path:
    return Path(str(resources.files("kilim.bpf").joinpath(f"{program}.bpf.o")))


def _name_pins(opened: ObjectFile, settings: Settings) -> dict[str, str]:
    """Of its maps by name, which get the sizes of the settings."""
    maps = [each for each in opened.maps() if not each.internal]
    sizes = {
        "ct": settings.ct_max_entries,
        "fragments": settings.fragments_max_entries,
        "snat": settings.nat_max_entries,
        "events": settings.events_bytes,
    }
    for each in maps:
        if each.name in sizes:
            each.set_max_entries(sizes[each.name])
    return pin_names(maps, opened.btf())


def load_program(program: str, settings: Settings, maps: Path, *, verbose: bool = False) -> LoadedPrograms:
    """One object. Raises LoadError with the verifier's log, LayoutMismatch."""
    with closing(ObjectFile(object_path(program))) as opened:
        layout.check_layout(opened.btf())
        opened.write_settings(settings.rodata())
        pins = {name: maps / pin for name, pin in _name_pins(opened, settings).items()}
        for each in opened.maps():
            if each.name in pins:
                each.set_pin_path(pins[each.name])
        try:
            fds = opened.load(verbose=verbose)
        except LoadError:
            if verbose:
                raise
            return load_program(program, settings, maps, verbose=True)
        return LoadedPrograms(fds, {program: opened.processed_instructions()}, pins, settings.sockops_version)


def load_programs(settings: Settings, maps: Path) -> tuple[LoadedPrograms, Migration]:
    """All objects; maps that are pinned in `maps` are used again, or their content goes to new ones where their layout
    is another. Nothing is attached yet."""
    migration = Migration(maps)
    names: dict[str, str] = {}
    programs = (*PROGRAMS, sockops.OBJECT) if settings.sockops else PROGRAMS
    for program in programs:
        with closing(ObjectFile(object_path(program))) as opened:
            names = _name_pins(opened, settings)
            migration.create(opened, names)
    migration.copy()
    all_programs = LoadedPrograms({}, {}, {})
    for program in programs:
        if program == sockops.OBJECT:
            version = sockops.version_of(all_programs.pins, names.values())
            settings = replace(settings, sockops_version=version)
        try:
            loaded = load_program(program, settings, maps)
        except OSError as error:
            if program != sockops.OBJECT:
                raise
            return replace(all_programs, sockops_failure=str(error).partition("\n")[0]), migration
        all_programs = LoadedPrograms(
            all_programs.fds | loaded.fds,
            all_programs.processed_instructions | loaded.processed_instructions,
            all_programs.pins | loaded.pins,
            loaded.sockops_version,
        )
    return all_programs, migration
