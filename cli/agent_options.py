"""Flags of `kilim agent`, in groups by topic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kilim.cli.failure import BadUsage
from kilim.cli.flag_types import IpCidr

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(dir_okay=False, path_type=Path)


def masquerade_options(function: F) -> F:
    for option in reversed(_MASQUERADE):
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
