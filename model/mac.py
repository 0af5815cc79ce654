"""MAC addresses are derived from the pod's address, so that no table has to hold them. Locally administered."""

_NODE = b"\x0a\x5a"


def pod_mac(ip: int) -> bytes:
    """Of the interface inside the pod."""
    return b"\x0a\x58" + ip.to_bytes(4, "big")


def node_mac(ip: int) -> bytes:
    """Of the host's side of the same veth pair, which is the pod's gateway."""
    return _NODE + ip.to_bytes(4, "big")


def is_node_mac(mac: bytes) -> bool:
    return len(mac) == 6 and mac.startswith(_NODE)
