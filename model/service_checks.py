"""Rules that Services and EndpointSlices have in common: protocols, words of a list, addresses to be reached at.

Every `check_` raises `Invalid`, in the words of Kubernetes' own validation.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address

from kilim.model.fields import read_text
from kilim.model.invalid import Invalid
from kilim.model.names import invalid_value, unsupported_value
from kilim.model.protocols import PROTOCOLS

_IP_RULE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def read_word(value: object, path: str, words: tuple[str, ...], default: str = "") -> str:
    """One of the words; `default` where it is not said."""
    text = read_text(value, path)
    if text and text not in words:
        raise unsupported_value(path, text, words)
    return text or default


def read_protocol(value: object, path: str) -> str:
    return read_word(value, path, tuple(PROTOCOLS), "TCP")


def read_list_limited(items: list[object], path: str, most: int) -> list[object]:
    if len(items) > most:
        raise Invalid(path, f"Too many: {len(items)}: must have at most {most} items")
    return items


def read_address(value: object, path: str) -> IPv4Address | IPv6Address:
    text = read_text(value, path)
    try:
        if "%" in text:
            raise ValueError
        return ip_address(text)
    except ValueError:
        raise invalid_value(path, text, _IP_RULE) from None


def check_serving_address(address: IPv4Address | IPv6Address, path: str) -> None:
    """Addresses that no host of a cluster can be reached at from everywhere in it."""
    rules = (
        (address.is_unspecified, f"may not be unspecified ({address})"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (_is_local_multicast(address), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    )
    for broken, rule in rules:
        if broken:
            raise invalid_value(path, str(address), rule)


def _is_local_multicast(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return int(address) >> 8 == 0xE00000
    return int(address) >> 112 & 0xFF0F == 0xFF02
