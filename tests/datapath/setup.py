"""A datapath loaded for checks, and removed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kilim.agent.bpf.datapath import Settings, load_objects, remove_all
from kilim.agent.bpf.ipmasq import write_exempt_cidrs
from kilim.agent.bpf.node_addresses import write_node_addresses
from kilim.model.address import format_ip, host_length
from tests.datapath.kernel import Kernel, compile_shim
from tests.datapath.model import state
from tests.datapath.places import DEVICE_MTUS, LO, ROUTE_MTUS, SETTINGS, TUNNEL
from tests.kernel.wire import Namespace


def _set_up(ipr: Any) -> None:
    """The devices and routes that the settings speak of. The kernel tells routes where it forwards."""
    ipr.link("set", index=LO, mtu=DEVICE_MTUS[LO], state="up")
    ipr.link("add", index=TUNNEL, ifname="tunnel", kind="veth", peer="nobody", mtu=DEVICE_MTUS[TUNNEL])
    for index in (TUNNEL, *ipr.link_lookup(ifname="nobody")):
        ipr.link("set", index=index, state="up")
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    for ip, mtu in ROUTE_MTUS.items():
        ipr.route("add", dst=f"{format_ip(ip)}/{host_length(ip)}", oif=TUNNEL, metrics={"mtu": mtu, "lock": 1 << 2})


@contextmanager
def loaded_kernel(name: str, scratch: Path, wanted: state.Settings = SETTINGS) -> Iterator[Kernel]:
    root = Path("/sys/fs/bpf") / name
    settings = Settings(
        wanted.node_ipv4,
        wanted.underlay_ifindex,
        wanted.tunnel_ifindex,
        wanted.tunnel_port,
        node_ipv6=wanted.node_ipv6,
        ct_max_entries=4096,
        events_bytes=1 << 16,
        masquerade_ipv4=wanted.masquerade,
        masquerade_ipv6=wanted.masquerade,
        masquerade_ports=wanted.masquerade_ports,
        masquerade_exempts=bool(wanted.masquerade_exempts),
    )
    namespace = Namespace()
    try:
        namespace.netlink(_set_up)
        datapath = load_objects(settings, root)
        write_exempt_cidrs(datapath.maps["ipmasq"], [(each.ip, each.prefix_len) for each in wanted.masquerade_exempts])
        write_node_addresses(datapath.maps["node_addresses"], wanted.node_addresses)
        kernel = Kernel(datapath, compile_shim(scratch), namespace, wanted)
        yield kernel
        kernel.close()
        datapath.close()
    finally:
        namespace.close()
        remove_all(root)
