"""A scenario of IPv4 as one of IPv6: a.b.c.d becomes 2001:db8::a.b.c.d and a prefix 96 bits longer, so that what
contained what still does, and what is on the lab's underlay keeps its number there; 0.0.0.0/0 and ::/0 change places.
Its verdicts must be the same.

Easy to get wrong: types of ICMP are other ones, and so are the entities that say a family.
"""

import ipaddress
import re
from typing import Any

from kilim.lab.topology import UNDERLAY, UNDERLAY_IPV6

_IPV4 = re.compile(r"(?<![\d.:])(\d{1,3}(?:\.\d{1,3}){3})(?:/(\d{1,2}))?(?![\d.])")
_BASE = int(ipaddress.IPv6Address("2001:db8::"))
_TYPES = {8: 128, 0: 129}
_OTHERS = {"world-ipv4": "world-ipv6", "world-ipv6": "world-ipv4"}


def in_ipv6(value: Any) -> Any:
    """The same, for any part of a scenario as JSON has it."""
    if isinstance(value, str):
        return _OTHERS.get(value) or "0.0.0.0/0".join(_IPV4.sub(_mapped, part) for part in value.split("::/0"))
    if isinstance(value, list):
        return [in_ipv6(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("family") in ("IPv4", None) and set(value) <= {"family", "type"} and "type" in value:
        return {"family": "IPv6", "type": _TYPES.get(value["type"], value["type"])}
    return {key: "IPv6" if (key, each) == ("addressType", "IPv4") else in_ipv6(each) for key, each in value.items()}


def _mapped(found: re.Match[str]) -> str:
    address, length = found.groups()
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        return found[0]
    if length == "0":
        return "::/0"
    as_ipv6 = (
        UNDERLAY_IPV6[int(ip) & int(UNDERLAY.hostmask)] if ip in UNDERLAY else ipaddress.IPv6Address(_BASE | int(ip))
    )
    return f"{as_ipv6}/{96 + int(length)}" if length else str(as_ipv6)
