"""What an agent is started with."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from kilim.model.address import parse_ip

try:
    AGENT_VERSION = version("kilim")
except PackageNotFoundError:
    AGENT_VERSION = "unknown"


@dataclass(frozen=True, slots=True)
class Settings:
    """See ARCHITECTURE.md, "Processes". Of `node_ip` and `node_ipv6` one may be empty: the node has no such address,
    and its pods none either; both: they are found on `devices`, or on that of the default route. `pod_cidrs` empty: the
    control plane gives one of each family. `mtu` 0: the underlay's."""

    node_name: str
    node_ip: str
    servers: tuple[str, ...]
    node_ipv6: str = ""
    pod_cidrs: tuple[str, ...] = ()
    node_labels: tuple[tuple[str, str], ...] = ()
    state_dir: Path = Path("/var/lib/kilim")
    run_dir: Path = Path("/run/kilim")
    bpf_root: Path = Path("/sys/fs/bpf/kilim")
    routing_mode: Literal["tunnel", "native"] = "tunnel"
    auto_direct_node_routes: bool = False  # native: the agent writes routes to the pods of the nodes on its underlay
    enable_ipv4_masquerade: bool = True
    enable_ipv6_masquerade: bool = True
    native_routing_cidrs: tuple[str, ...] = ()  # destinations that pods reach with their own addresses
    enable_ip_masq_agent: bool = False
    ip_masq_agent_config_path: Path = Path("/etc/config/ip-masq-agent")
    bpf_ct_global_max: int = 262144  # connections
    bpf_nat_global_max: int = 262144  # rows of masquerade, two a connection
    bpf_fragments_map_max: int = 8192  # packets that come in fragments, at one time
    bpf_ct_timeout_regular_tcp_s: float = 8000.0
    bpf_ct_timeout_regular_tcp_syn_s: float = 60.0
    bpf_ct_timeout_regular_tcp_fin_s: float = 10.0
    bpf_ct_timeout_regular_any_s: float = 60.0
    conntrack_gc_interval_s: float = 0.0  # 0: by how many had expired
    conntrack_gc_max_interval_s: float = 0.0  # 0: 12 hours
    devices: tuple[str, ...] = ()  # towards the wire
    tunnel_port: int = 8472
    mtu: int = 0
    datapath_mode: Literal["veth", "memory"] = "veth"  # memory: no kernel, no pods; for runs with many agents
    sockops_enable: bool = False
    cgroup_root: Path | None = None  # None: where cgroup v2 is mounted
    datapath_attach: Literal["auto", "tcx", "clsact"] = "auto"  # auto: tcx where the kernel has it
    enable_health_checking: bool = True  # with datapath_mode veth
    enable_endpoint_health_checking: bool = True
    health_probe_interval_s: float = 60.0
    cluster_health_port: int = 4240
    prometheus_serve_addr: str = ""  # HOST:PORT; empty: no metrics
    log_format: str = "auto"  # "json", "console"; auto: console on a terminal
    log_level: str = "info"

    @property
    def node_ips(self) -> tuple[int, ...]:
        """IPv4 first."""
        return tuple(parse_ip(text) for text in (self.node_ip, self.node_ipv6) if text)
