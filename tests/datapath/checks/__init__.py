"""Checks by topic. A module has `checks()`; a new one is named here."""

from collections.abc import Iterator
from itertools import chain

from tests.datapath.check import Check
from tests.datapath.checks import (
    connections,
    fragments,
    headers,
    icmp,
    link,
    masquerade,
    mtu,
    node,
    policy,
    protocols,
    sources,
    truncation,
    tunnel,
    ways,
)

MODULES = (protocols, truncation, headers, link, sources, ways, policy, connections, fragments, icmp, tunnel, mtu, node)


MASQUERADING = (masquerade,)  # on a node that does


def all_checks() -> Iterator[Check]:
    return chain.from_iterable(module.checks() for module in (*MODULES, *MASQUERADING))
