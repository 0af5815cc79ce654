"""Random selectors, address blocks and port lists that several kinds of policy share."""

import ipaddress
from random import Random
from typing import Any

from tests.pure.policy.worlds import APPS, CIDRS, NAMESPACES, TEAMS, TIERS, maybe, some

Value = dict[str, Any]

POD_KEYS = {"app": APPS, "tier": TIERS}
NAMESPACE_KEYS = {"team": TEAMS, "kubernetes.io/metadata.name": NAMESPACES}

NODE_KEYS: dict[str, tuple[str, ...]] = {
    "zone": ("a", "b"),
    "disk": ("ssd", "hdd"),
    "kubernetes.io/os": ("linux", "windows"),
    "kubernetes.io/hostname": ("node1", "node2"),
}


def selector(random: Random, keys: dict[str, tuple[str, ...]]) -> Value:
    """Empty, labels, expressions, or both."""
    found: Value = {}
    if maybe(random, 0.25):
        return found
    if maybe(random, 0.6):
        key = random.choice(list(keys))
        found["matchLabels"] = {key: random.choice(keys[key])}
    if not found or maybe(random, 0.3):
        found["matchExpressions"] = [expression(random, keys) for _ in range(random.randint(1, 2))]
    return found


def expression(random: Random, keys: dict[str, tuple[str, ...]]) -> Value:
    key = random.choice(list(keys))
    operator = random.choice(("In", "NotIn", "Exists", "DoesNotExist"))
    values = {"values": some(random, keys[key])} if operator in ("In", "NotIn") else {}
    return {"key": key, "operator": operator, **values}


def pod_selector(random: Random) -> Value:
    return selector(random, POD_KEYS)


def namespace_selector(random: Random) -> Value:
    return selector(random, NAMESPACE_KEYS)


def block(random: Random, cidrs: tuple[str, ...] = CIDRS) -> Value:
    """A cidr, often with excepts that lie strictly inside."""
    cidr = random.choice(cidrs)
    inner = [each for each in cidrs if _strictly_inside(each, cidr)]
    if inner and maybe(random, 0.5):
        return {"cidr": cidr, "except": some(random, inner, min(2, len(inner)))}
    return {"cidr": cidr}


def _strictly_inside(inner: str, outer: str) -> bool:
    a, b = ipaddress.ip_network(inner), ipaddress.ip_network(outer)
    return a != b and a.version == b.version and a.subnet_of(b)  # type: ignore[arg-type]
