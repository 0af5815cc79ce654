"""MAC addresses are derived, so that no table has to hold them and no address of a family counts more than the other:
a pod's pair from the id of its endpoint on the node, the tunnel device from the node's address. Locally administered.
"""

import hashlib

_POD = b"\x0a\x58"
_NODE = b"\x0a\x5a"
_TUNNEL = b"\x0a\x5b"


def pod_mac(endpoint_id: int) -> bytes:
    """Of the interface inside the pod."""
    return _POD + endpoint_id.to_bytes(4, "big")


def node_mac(endpoint_id: int) -> bytes:
    """Of the host's side of the same veth pair, which is the pod's gateway."""
    return _NODE + endpoint_id.to_bytes(4, "big")


def tunnel_mac(node_ip: str) -> bytes:
    """Of the tunnel device of the node with this address."""
    return _TUNNEL + hashlib.sha256(node_ip.encode()).digest()[:4]


def is_node_mac(mac: bytes) -> bool:
    return len(mac) == 6 and mac.startswith(_NODE)
