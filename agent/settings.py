"""What an agent is started with."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

try:
    AGENT_VERSION = version("kilim")
except PackageNotFoundError:
    AGENT_VERSION = "unknown"


@dataclass(frozen=True, slots=True)
class Settings:
    """See ARCHITECTURE.md, "Processes". `pod_cidrs` empty: the control plane gives one. `mtu` 0: the underlay's."""

    node_name: str
    node_ip: str
    servers: tuple[str, ...]
    pod_cidrs: tuple[str, ...] = ()
    node_labels: tuple[tuple[str, str], ...] = ()
    state_dir: Path = Path("/var/lib/kilim")
    run_dir: Path = Path("/run/kilim")
    bpf_root: Path = Path("/sys/fs/bpf/kilim")
    tunnel_port: int = 8472
    mtu: int = 0
    datapath_mode: Literal["veth", "memory"] = "veth"  # memory: no kernel, no pods; for runs with many agents
    datapath_attach: Literal["auto", "tcx", "clsact"] = "auto"  # auto: tcx where the kernel has it
    prometheus_serve_addr: str = ""  # HOST:PORT; empty: no metrics
    log_format: str = "auto"  # "json", "console"; auto: console on a terminal
    log_level: str = "info"
