"""What a node knows, what it remembers, and what becomes of a packet. Addresses are those of model/address.py."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kilim.model.address import Cidr

INGRESS, EGRESS = 0, 1

# What a program answers.
PASS, DROP, REDIRECT = 0, 2, 7

# Numbers that counters have beside those of drop reasons.
FORWARDED, AUDITED = 0, 2

# Of records.
CONNECTION, DROPPED, AUDIT = 1, 2, 3

HOST, WORLD, HEALTH, REMOTE_NODE, WORLD_IPV6 = 1, 2, 4, 6, 10

ENDPOINT_AUDITED = 1
SUBJECT_UNKNOWN = 64


class Endpoint(NamedTuple):
    ifindex: int
    identity: int
    endpoint_id: int
    flags: int = 0

    @property
    def audited(self) -> bool:
        return bool(self.flags & ENDPOINT_AUDITED)


class Subject(NamedTuple):
    table: int
    revision: int
    flags: int  # bit direction | tier << 1, SUBJECT_UNKNOWN


class Row(NamedTuple):
    """What a row of policy is for."""

    table: int
    subject: int
    direction: int
    peer: int  # 0: any
    protocol: int  # 0: any, then of any port
    port: int
    port_prefix_len: int
    tier: int = 0


class Remote(NamedTuple):
    identity: int
    tunnel: int = 0  # 0: none


@dataclass(frozen=True)
class Settings:
    node_ipv4: int = 0
    node_ipv6: int = 0
    node_addresses: frozenset[int] = frozenset()  # what else its devices have
    underlay_ifindex: int = 0
    tunnel_ifindex: int = 0
    tunnel_port: int = 0
    device_mtus: Mapping[int, int] = field(default_factory=dict)  # by interface index
    route_mtus: Mapping[int, int] = field(default_factory=dict)  # by destination; none: the kernel tells no route
    masquerade: bool = False
    masquerade_ports: tuple[int, int] = (10000, 29999)
    masquerade_exempts: tuple[Cidr, ...] = ()
    record_connections: bool = True
    life_tcp: int = 7451  # ticks of 2^30 ns, as the others: 8,000 s
    life_syn: int = 56
    life_closing: int = 10
    life_other: int = 56


@dataclass
class Tables:
    ipcache: dict[tuple[int, int], Remote] = field(default_factory=dict)  # by address and prefix length
    endpoints: dict[int, Endpoint] = field(default_factory=dict)
    subjects: dict[int, Subject] = field(default_factory=dict)
    policy: dict[Row, int] = field(default_factory=dict)  # precedence << 2 | action


class End(NamedTuple):
    ip: int
    port: int


ConnectionKey = tuple[int, frozenset[End]]  # protocol and both ends, in no order


MappingKey = tuple[int, End, End, int]  # protocol, source and destination as a packet comes in, direction


class Mapped(NamedTuple):
    """What takes the place of one end: of the source of what goes out, of the destination of what comes in."""

    ip: int
    port: int
    endpoint_id: int


class Consent(NamedTuple):
    """That a side allowed a connection, and what that was decided on."""

    subject: int
    peer: int
    revision: int


@dataclass
class Connection:
    initiator: End
    expires: int = 0
    flags: list[int] = field(default_factory=lambda: [0, 0])  # TCP's, seen from the initiator, from the other end
    consents: dict[int, Consent] = field(default_factory=dict)  # by direction
    audited: frozenset[int] = frozenset()  # directions in which it passes by audit mode alone


FragmentKey = tuple[int, int, int, int]  # source, destination, id, protocol (IPv6: 0)


class FirstFragment(NamedTuple):
    """What a first fragment has said of its packet."""

    expires: int
    src_port: int
    dst_port: int
    policy_port: int
    protocol: int
    echo: str


class Record(NamedTuple):
    """As kilim.agent.records has them, but for the time."""

    src_ip: int
    dst_ip: int
    src_port: int
    dst_port: int
    protocol: int
    tcp_flags: int
    type: int
    direction: int
    src_identity: int
    dst_identity: int
    length: int
    ifindex: int
    reason: int
    endpoint_id: int
    flags: int


class Way(NamedTuple):
    """Where a redirected packet goes."""

    kind: str  # "peer", "tunnel", "neighbor"
    ifindex: int
    tunnel_to: int = 0
    vni: int = 0


@dataclass
class Outcome:
    verdict: int
    reason: int  # 0: not dropped
    frame: bytes
    records: list[Record] = field(default_factory=list)
    counters: Counter[tuple[int, int]] = field(default_factory=Counter)  # packets by reason and direction
    way: Way | None = None


class Dropped(Exception):
    """Ends a packet. `direction`: of the count, where it is not the program's own."""

    def __init__(self, reason: str, *, quiet: bool = False) -> None:
        super().__init__(reason)
        self.reason = REASONS[reason]
        self.quiet = quiet


REASONS = {
    "INVALID_SOURCE_MAC": 130,
    "INVALID_SOURCE_IP": 132,
    "POLICY_DENIED": 133,
    "INVALID_PACKET": 134,
    "CT_INVALID_HEADER": 135,
    "CT_UNKNOWN_L4": 137,
    "UNSUPPORTED_L3": 139,
    "WRITE_ERROR": 141,
    "NO_TUNNEL_KEY": 147,
    "UNROUTABLE_IP": 151,
    "NO_LOCAL_ENDPOINT": 152,
    "CT_INSERTION": 155,
    "INVALID_EXTHDR": 156,
    "FRAGMENT": 157,
    "NO_POLICY": 165,
    "NO_MAPPING_FOR_NAT_MASQUERADE": 167,
    "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE": 168,
    "ENCAPSULATION": 170,
    "NO_FIRST_FRAGMENT": 175,
    "FORBIDDEN_ICMPV6": 176,
    "POLICY_DENY": 181,
    "VLAN_FILTERED": 182,
    "INVALID_VNI": 183,
}


@dataclass
class Node:
    """A node's datapath between two packets."""

    settings: Settings = field(default_factory=Settings)
    tables: Tables = field(default_factory=Tables)
    connections: dict[ConnectionKey, Connection] = field(default_factory=dict)
    fragments: dict[FragmentKey, FirstFragment] = field(default_factory=dict)
    mappings: dict[MappingKey, Mapped] = field(default_factory=dict)
    now: int = 0  # ticks

    def expire_connections(self) -> None:
        """And first fragments."""
        for connection in self.connections.values():
            connection.expires = 0
        self.fragments = {key: first._replace(expires=0) for key, first in self.fragments.items()}

    def is_known_by(self, ip: int | None) -> bool:
        return bool(ip) and ip in (self.settings.node_ipv4, self.settings.node_ipv6)

    def is_own(self, ip: int | None) -> bool:
        return self.is_known_by(ip) or ip in self.settings.node_addresses
