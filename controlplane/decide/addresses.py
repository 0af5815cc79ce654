"""The addresses that a registration brings: one of each family at most, and one at least."""

from kilim.controlplane.decide.refusal import invalid
from kilim.model.address import is_ipv6, parse_ip, parse_ipv4


def parse_addresses(where: str, ip: str, ipv6: str) -> tuple[int, int]:
    """(IPv4, IPv6) of the fields `ip` and `ipv6`, 0 where one is empty. `where` is what they belong to."""
    if not ip and not ipv6:
        raise invalid(f"{where}: ip", "an IPv4 address is needed here, or an IPv6 address in ipv6")
    try:
        four = parse_ipv4(ip) if ip else 0
    except ValueError as error:
        raise invalid(f"{where}: ip", str(error)) from error
    if ip and not four:
        raise invalid(f"{where}: ip", f"{ip} is not an address that other nodes can reach")
    try:
        six = parse_ip(ipv6) if ipv6 else 0
    except ValueError as error:
        raise invalid(f"{where}: ipv6", str(error)) from error
    if six and not is_ipv6(six):
        raise invalid(f"{where}: ipv6", f"{ipv6!r} is not an IPv6 address")
    return four, six


def field_of(ip: int) -> str:
    return "ipv6" if is_ipv6(ip) else "ip"
