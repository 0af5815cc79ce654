"""Numeric identities, numbered as in Cilium so that tools and people carry over.

Numbers: reserved 1-255; cluster-local 256-65535; from 1<<24 on, one per CIDR that a policy names; from 1<<25 on, one
per set of labels of nodes that policies tell apart. All are allocated by the log and so the same on every node.
"""

from dataclasses import dataclass

from kilim.model.address import Cidr, is_ipv6, parse_cidr

ANY_PEER = 0
HOST = 1
WORLD = 2
HEALTH = 4  # of the health endpoint that every node has; no policy selects it
REMOTE_NODE = 6
WORLD_IPV6 = 10
FIRST_CLUSTER_LOCAL = 256
LAST_CLUSTER_LOCAL = 65535
FIRST_CIDR = 1 << 24
LAST_CIDR = (1 << 24) + (1 << 16) - 1
FIRST_NODE = 1 << 25
LAST_NODE = (1 << 25) + (1 << 16) - 1

RESERVED_NAMES = {
    1: "host",
    2: "world",
    3: "unmanaged",
    4: "health",
    5: "init",
    6: "remote-node",
    7: "kube-apiserver",
    8: "ingress",
    9: "world-ipv4",
    10: "world-ipv6",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A set of security-relevant labels with a number."""

    id: int
    labels: tuple[str, ...]

    @property
    def cidr(self) -> Cidr | None:
        """The prefix of a CIDR identity; None for all others."""
        if not FIRST_CIDR <= self.id < FIRST_NODE:
            return None
        return next((membership_of(label) for label in self.labels if label.startswith("cidr:")), None)


def is_shared(number: int) -> bool:
    """Whether it stands for all endpoints, or nodes, with the same labels."""
    return FIRST_CLUSTER_LOCAL <= number <= LAST_CLUSTER_LOCAL or FIRST_NODE <= number <= LAST_NODE


def is_of_pods(identity: Identity) -> bool:
    """Allocated for labels of pods, not for a prefix of the world, and not for nodes."""
    number = identity.id
    return number not in RESERVED and identity.cidr is None and not FIRST_NODE <= number <= LAST_NODE


def membership_label(cidr: Cidr) -> str:
    """Of an endpoint or a node whose address lies in a prefix that a policy names. In Cilium's form: no colon, and no
    `-` at an end of the address."""
    if not is_ipv6(cidr.ip):
        return f"cidr:{cidr}"
    address, _, length = str(cidr).partition("/")
    before, after = ("0" if at_end else "" for at_end in (address.startswith(":"), address.endswith(":")))
    return f"cidr:{before}{address.replace(':', '-')}{after}/{length}"


def membership_of(label: str) -> Cidr | None:
    """The prefix of such a label; None for any other."""
    if not label.startswith("cidr:"):
        return None
    try:
        return parse_cidr(label[5:].replace("-", ":"))
    except ValueError:
        return None


def cidr_labels(cidr: Cidr) -> tuple[str, ...]:
    """Of the identity of a prefix of the world."""
    return (membership_label(cidr), *(IPV6_WORLD_LABELS if is_ipv6(cidr.ip) else (WORLD_LABEL,)))


def world_of(ip: int) -> int:
    """What an address is that no row covers."""
    return WORLD_IPV6 if is_ipv6(ip) else WORLD


WORLD_LABEL = "reserved:world"
WORLD_IPV6_LABEL = "reserved:world-ipv6"
IPV6_WORLD_LABELS = (WORLD_LABEL, WORLD_IPV6_LABEL)
# In clusters with IPv6 the log has it, so that `world` is both families; where there never was any nothing changes.
IPV6_WORLD = Identity(WORLD_IPV6, IPV6_WORLD_LABELS)
NODE_LABEL = f"reserved:{RESERVED_NAMES[REMOTE_NODE]}"  # of every identity that a node other than the own one has
RESERVED = {number: Identity(number, (f"reserved:{name}",)) for number, name in RESERVED_NAMES.items()}
