"""What a lab is made of, as values: written once to `lab.json` by `up`, read by every other command.

Addresses may repeat between labs, for each underlay lives in namespaces of its own; only loopback ports are shared.
"""

import dataclasses
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilim.lab import names
from kilim.lab.errors import BadInput, LabError

UNDERLAY = ipaddress.IPv4Network("192.168.60.0/24")
UNDERLAY_IPV6 = ipaddress.IPv6Network("fd00:60::/64")
POD_POOL = ipaddress.IPv4Network("10.244.0.0/16")
POD_POOL_IPV6 = "fd00:10:244::/48"
IPV4, IPV6 = IP_FAMILIES = ("IPv4", "IPv6")  # as Kubernetes has them in a Service's ipFamilies
SERVER_PORT = 4260
ETCD_CLIENT_PORT = 2379
ETCD_PEER_PORT = 2380
TUNNEL_PORT = 8472
AGENT_METRICS_PORT = 9962
SERVER_METRICS_PORT = 9963
MAX_NODES, MAX_REPLICAS, MAX_ETCD = 150, 9, 9
_FIRST_ETCD, _FIRST_REPLICA, _FIRST_NODE = 11, 21, 101


@dataclass(frozen=True, slots=True)
class Port:
    port: int
    protocol: str = "TCP"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    labels: dict[str, str]
    ports: tuple[Port, ...] = ()
    node: str | None = None
    ip: str | None = None
    service_account: str = "default"
    host_network: bool = False  # it is its node
    ipv6: str | None = None  # asked for beside an `ip` of IPv4

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ips(self) -> tuple[str, ...]:
        """Those that it asks for."""
        return tuple(ip for ip in (self.ip, self.ipv6) if ip)


@dataclass(frozen=True, slots=True)
class External:
    name: str
    ip: str
    dns: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    ipv6: str = ""  # where `ip` is of IPv4 and it has one of IPv6, too

    @property
    def ips(self) -> tuple[str, ...]:
        return (self.ip, self.ipv6) if self.ipv6 else (self.ip,)


@dataclass(frozen=True, slots=True)
class NodePlan:
    name: str
    pod_cidrs: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """`ip`: of IPv4 where it has one."""

    name: str
    ip: str
    pod_cidrs: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)
    ipv6: str = ""  # where `ip` is of IPv4 and it has one of IPv6, too

    @property
    def ips(self) -> tuple[str, ...]:
        return (self.ip, self.ipv6) if self.ipv6 else (self.ip,)


@dataclass(frozen=True, slots=True)
class Server:
    """A control plane replica or an etcd member: `ip` in the lab, `loopback_port` on the machine itself."""

    name: str
    ip: str
    port: int
    loopback_port: int

    @property
    def address(self) -> str:
        return address_of(self.ip, self.port)

    @property
    def loopback(self) -> str:
        return f"127.0.0.1:{self.loopback_port}"


@dataclass(frozen=True, slots=True)
class Lab:
    name: str
    pool: str
    nodes: tuple[Node, ...]
    replicas: tuple[Server, ...]
    etcd: tuple[Server, ...]
    externals: tuple[External, ...] = ()
    etcd_disk_mib: int = 0  # of each member; 0: the machine's own
    clock_library: str = ""  # preloaded into replicas and agents, so that `set_clock` moves their wall clock
    agent_options: tuple[str, ...] = ()  # of every agent, besides those that make the lab: "--routing-mode=native"
    routed_pods: bool = True  # the underlay knows the way to pods, as a cloud's route tables do

    @property
    def run_dir(self) -> Path:
        return names.run_dir(self.name)

    def node_run_dir(self, node: str) -> Path:
        return self.run_dir / node

    def netns(self, role: str) -> Path:
        return names.netns_path(self.name, role)

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise BadInput(f"lab {self.name} has no node {name!r} (it has {', '.join(n.name for n in self.nodes)})")

    @property
    def agent_processes(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    @property
    def process_names(self) -> tuple[str, ...]:
        servers = tuple(server.name for server in (*self.etcd, *self.replicas))
        return (*servers, *self.agent_processes, "relay", "workloads")


def address_of(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def families_of(cidrs: Iterable[str]) -> tuple[str, ...]:
    """IPv4 first."""
    present = {IPV6 if ":" in cidr else IPV4 for cidr in cidrs}
    return tuple(family for family in IP_FAMILIES if family in present)


def default_node_plans(
    count: int, pool: ipaddress.IPv4Network = POD_POOL, families: tuple[str, ...] = IP_FAMILIES
) -> tuple[NodePlan, ...]:
    """node1 … nodeN, each with the /24 and the /64 of its number."""
    if not 1 <= count <= MAX_NODES:
        raise BadInput(f"nodes: must be 1 to {MAX_NODES}, not {count}")
    blocks = pool.supernet(new_prefix=16).subnets(new_prefix=24)
    next(blocks)
    plans = []
    for number in range(1, count + 1):
        cidrs = {IPV4: str(next(blocks)), IPV6: f"fd00:10:{str(pool).split('.')[1]}:{number:x}::/64"}
        plans.append(NodePlan(f"node{number}", tuple(cidrs[family] for family in families)))
    return tuple(plans)


def planned_nodes(plans: tuple[NodePlan, ...]) -> tuple[Node, ...]:
    """On the underlay with an address of each family that any of them has pods of."""
    families = families_of(cidr for plan in plans for cidr in plan.pod_cidrs)
    return tuple(_node(plan, _FIRST_NODE + i, families) for i, plan in enumerate(plans))


def _node(plan: NodePlan, number: int, families: tuple[str, ...]) -> Node:
    ip, *more = underlay_ips(number, families)
    return Node(plan.name, ip, plan.pod_cidrs, plan.labels, *more)


def underlay_ips(number: int, families: tuple[str, ...]) -> list[str]:
    networks: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network] = {IPV4: UNDERLAY, IPV6: UNDERLAY_IPV6}
    return [str(networks[family].network_address + number) for family in families or (IPV4,)]


def planned_etcd(loopback_ports: list[int], families: tuple[str, ...] = IP_FAMILIES) -> tuple[Server, ...]:
    return _servers("etcd", _FIRST_ETCD, ETCD_CLIENT_PORT, loopback_ports, families)


def planned_replicas(loopback_ports: list[int], families: tuple[str, ...] = IP_FAMILIES) -> tuple[Server, ...]:
    return _servers("replica", _FIRST_REPLICA, SERVER_PORT, loopback_ports, families)


def _servers(
    kind: str, first: int, port: int, loopback_ports: list[int], families: tuple[str, ...]
) -> tuple[Server, ...]:
    return tuple(
        Server(f"{kind}{i + 1}", underlay_ips(first + i, families)[0], port, p) for i, p in enumerate(loopback_ports)
    )


def save_lab(lab: Lab) -> None:
    write_atomically(lab.run_dir / "lab.json", dataclasses.asdict(lab))


def load_lab(name: str) -> Lab:
    try:
        data = json.loads((names.run_dir(names.checked_lab_name(name)) / "lab.json").read_text())
    except FileNotFoundError:
        raise LabError(f"no lab {name!r} is up (kilim lab up --name {name})") from None
    return Lab(
        name=data["name"],
        pool=data["pool"],
        nodes=tuple(Node(**{**node, "pod_cidrs": tuple(node["pod_cidrs"])}) for node in data["nodes"]),
        replicas=tuple(Server(**s) for s in data["replicas"]),
        etcd=tuple(Server(**s) for s in data["etcd"]),
        externals=tuple(_external(e) for e in data["externals"]),
        etcd_disk_mib=data.get("etcd_disk_mib", 0),
        clock_library=data.get("clock_library", ""),
        agent_options=tuple(data.get("agent_options", ())),
        routed_pods=data.get("routed_pods", True),
    )


def write_atomically(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value, indent=1))
    draft.rename(path)


def ports_from(items: list[dict[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(item["port"], item["protocol"], item["name"]) for item in items)


def _external(item: dict[str, Any]) -> External:
    return External(item["name"], item["ip"], tuple(item["dns"]), ports_from(item["ports"]), item.get("ipv6", ""))
