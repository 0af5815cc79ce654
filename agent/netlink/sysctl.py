"""Settings of one interface under /proc/sys/net, of the network namespace that the calling thread is in.

Easy to get wrong: a kernel without IPv6 has none of the ipv6 ones; for IPv4 alone that is as good as switched off.
"""

import contextlib
import errno
from pathlib import Path

_NET = Path("/proc/sys/net")
_NO_LINK_LOCAL = "1"  # IN6_ADDR_GEN_MODE_NONE


def quiet_link(name: str) -> None:
    """No link-local address, no search for routers or doubles of an address, no look at which way a source came."""
    write_sysctl(f"ipv4/conf/{name}/rp_filter", "0")
    write_sysctl(f"ipv6/conf/{name}/addr_gen_mode", _NO_LINK_LOCAL)
    for setting in ("accept_ra", "router_solicitations", "dad_transmits"):
        write_sysctl(f"ipv6/conf/{name}/{setting}", "0")


def let_forward(name: str) -> None:
    """What comes in there may be routed on: of other devices bpf_fib_lookup tells no routes. Our programs decide before
    the kernel could."""
    for family in ("ipv4", "ipv6"):
        write_sysctl(f"{family}/conf/{name}/forwarding", "1")


def switch_ipv6(name: str, on: bool) -> None:
    """Raises OSError where the kernel has no IPv6 to switch on."""
    if on and not (_NET / "ipv6").exists():
        raise OSError(errno.EAFNOSUPPORT, f"{name}: the kernel has no IPv6")
    write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if on else "1")


def write_sysctl(setting: str, value: str) -> None:
    """Where there is such a setting."""
    path = _NET / setting
    with contextlib.suppress(FileNotFoundError):
        if path.read_text().strip() != value:
            path.write_text(value)
