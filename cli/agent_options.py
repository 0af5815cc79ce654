"""Flags of `kilim agent`, in groups by topic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kilim.cli.duration import Duration
from kilim.cli.failure import BadUsage
from kilim.cli.flag_types import DIRECTORY, IpCidr

F = TypeVar("F", bound=Callable[..., Any])
MOST_LIFE_S = 8760 * 3600.0
FILE = click.Path(dir_okay=False, path_type=Path)


def masquerade_options(function: F) -> F:
    for option in reversed(_MASQUERADE):
        function = option(function)
    return function


def connection_options(function: F) -> F:
    for option in reversed(_CONNECTIONS):
        function = option(function)
    return function


def sockops_options(function: F) -> F:
    for option in reversed(_SOCKOPS):
        function = option(function)
    return function


def native_routing_cidrs(flags: dict[str, Any]) -> tuple[str, ...]:
    """Takes those of both families out of the flags."""
    found = []
    for family, is_ipv6 in (("ipv4", False), ("ipv6", True)):
        cidr = flags.pop(f"{family}_native_routing_cidr")
        if cidr and (":" in cidr) != is_ipv6:
            raise BadUsage(f"--{family}-native-routing-cidr: {cidr} is of the other family")
        found += [cidr] if cidr else []
    return tuple(found)


class Life(Duration):
    """Of entries in the kernel, whose clock has 32 bits of seconds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        if not 1 <= seconds <= MOST_LIFE_S:
            self.fail("must be between 1s and 8760h", param, ctx)
        return seconds


class Interval(Duration):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        if 0 < seconds < 1:
            self.fail("must be at least 1s, or 0", param, ctx)
        return seconds


def _life(name: str, default: str, what: str) -> Callable[[F], F]:
    variable = f"KILIM_AGENT_{name.upper().replace('-', '_')}"
    return click.option(
        f"--{name}", f"{name.replace('-', '_')}_s", type=Life(), default=default, show_default=True, envvar=variable,
        help=what,
    )  # fmt: skip


def _interval(name: str, what: str) -> Callable[[F], F]:
    variable = f"KILIM_AGENT_{name.upper().replace('-', '_')}"
    return click.option(
        f"--{name}", f"{name.replace('-', '_')}_s", type=Interval(), default="0s", show_default=True, envvar=variable,
        help=what,
    )  # fmt: skip


_CONNECTIONS = (
    click.option(
        "--bpf-ct-global-max", type=click.IntRange(1024, 1 << 24), default=262144, show_default=True,
        help="How many connections are tracked; beyond it the one least recently used is forgotten.",
    ),
    click.option(
        "--bpf-nat-global-max", type=click.IntRange(1024, 1 << 24), default=262144, show_default=True,
        help="The same for rows of masquerade, of which a connection has two.",
    ),
    click.option(
        "--bpf-fragments-map-max", type=click.IntRange(256, 1 << 20), default=8192, show_default=True,
        help="Of how many packets that come in fragments the ports are known at one time.",
    ),
    _life("bpf-ct-timeout-regular-tcp", "8000s", "How long an established TCP connection is tracked after a packet."),
    _life("bpf-ct-timeout-regular-tcp-syn", "60s", "The same for one that is not established yet."),
    _life("bpf-ct-timeout-regular-tcp-fin", "10s", "The same for one that was closed or reset."),
    _life("bpf-ct-timeout-regular-any", "60s", "The same for all other protocols."),
    _interval("conntrack-gc-interval", "How often expired connections are removed. 0: as often as it is worth it."),
    _interval("conntrack-gc-max-interval", "How seldom that may be, with an interval of 0. 0: 12h."),
)  # fmt: skip

_MASQUERADE = (
    click.option(
        "--enable-ipv4-masquerade", type=bool, default=True, show_default=True, metavar="BOOL",
        help="What pods open towards outside the cluster leaves with the address of their node.",
    ),
    click.option(
        "--enable-ipv6-masquerade", type=bool, default=True, show_default=True, metavar="BOOL",
        help="The same for IPv6.",
    ),
    click.option(
        "--ipv4-native-routing-cidr", type=IpCidr(),
        help="Destinations that know ways back to pods: nothing to there is masqueraded.",
    ),
    click.option("--ipv6-native-routing-cidr", type=IpCidr(), help="The same for IPv6."),
    click.option(
        "--enable-ip-masq-agent", is_flag=True,
        help="Masquerade nothing to the nonMasqueradeCIDRs of a file, which is read again when it changes.",
    ),
    click.option(
        "--ip-masq-agent-config-path", type=FILE, default="/etc/config/ip-masq-agent", show_default=True,
        help="That file, YAML or JSON; if it is missing, private and reserved blocks are meant.",
    ),
)  # fmt: skip

_SOCKOPS = (
    click.option(
        "--sockops-enable", is_flag=True,
        help="What pods of this node write to one another over TCP goes from socket to socket. See docs/operations.md.",
    ),
    click.option(
        "--cgroup-root", type=DIRECTORY,
        help="With it: the cgroup v2 directory that all pods are below. [default: where cgroup v2 is mounted]",
    ),
)  # fmt: skip
