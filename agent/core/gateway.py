"""What a pod has as its gateway: the same in every pod, on no interface, known by a permanent neighbour entry. PURE."""

from kilim.model.address import format_ip, host_length, is_ipv6

GATEWAYS = ("169.254.1.1", "fe80::1")  # by family, as is_ipv6 counts
DEFAULT_ROUTES = ("0.0.0.0/0", "::/0")


def gateway_of(ip: int) -> str:
    """Of a pod with this address, for its family."""
    return GATEWAYS[is_ipv6(ip)]


def host_cidr(ip: int) -> str:
    """The address as the prefix that holds it alone."""
    return f"{format_ip(ip)}/{host_length(ip)}"
