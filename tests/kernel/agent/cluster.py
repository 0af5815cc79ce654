"""One node with a real agent, one real replica with its own etcd, each in a namespace; pods through the plugin.

Everything is dual stack, or of one family: the wire between the two, the pods, and how the agent reaches the replica.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from kilim.agent.netlink.session import open_netlink
from kilim.lab.netns import create_netns, delete_netns, in_netns
from kilim.v1 import agent_pb2, agent_pb2_grpc, controlplane_pb2, controlplane_pb2_grpc

BIN = Path(sys.executable).parent


class Family(NamedTuple):
    server_ip: str
    node_ip: str
    prefix_len: int
    pod_cidr: str
    free_ip: str


IPV4 = Family("192.168.61.1", "192.168.61.2", 24, "10.61.7.0/28", "10.61.7.9")
IPV6 = Family("fd00:61::1", "fd00:61::2", 64, "fd00:10:61:7::/64", "fd00:10:61:7::9")
NODAD = 2


class Cluster:
    def __init__(self, prefix: str, directory: Path, families: tuple[Family, ...] = (IPV4, IPV6)) -> None:
        self.families = families
        self.directory = directory
        self.run_dir = directory / "run"
        self.bpf_root = Path(f"/sys/fs/bpf/{prefix}-agent")
        self.server_netns, self.node_netns = (Path(f"/var/run/netns/{prefix}-{role}") for role in ("as", "an"))
        self._prefix = prefix
        self._pods: list[Path] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # --- machines

    def start(self) -> None:
        for netns in (self.server_netns, self.node_netns):
            create_netns(netns)
        with open(self.node_netns, "rb") as peer:
            in_netns(self.server_netns, lambda: _make_wire(peer.fileno()))
        in_netns(self.server_netns, lambda: _bring_up("wire0", {each.server_ip: each for each in self.families}))
        in_netns(self.node_netns, lambda: _bring_up("wire1", {each.node_ip: each for each in self.families}))
        self.start_replica()
        self.start_agent()

    def stop(self) -> None:
        for name in list(self._processes):
            self.kill(name, signal.SIGTERM)
        for netns in [*self._pods, self.node_netns, self.server_netns]:
            delete_netns(netns)
        subprocess.run(["rm", "-rf", str(self.bpf_root)], check=True)

    def start_replica(self) -> None:
        arguments = ["controlplane", "--name", "r1", "--embedded-etcd", self.directory / "etcd", "--advertise"]
        arguments += [self.server, "--listen", self.server, "--listen", f"unix:{self.api_socket}"]
        self._run("replica", self.server_netns, arguments)
        wait_for("the replica", lambda: self._answers(self._ready))

    def start_agent(self, *more: str) -> None:
        node_ips = ",".join(each.node_ip for each in self.families)
        arguments = ["agent", "--node-name", "node1", "--node-ip", node_ips, "--servers", self.server]
        arguments += [part for each in self.families for part in ("--pod-cidr", each.pod_cidr)]
        arguments += ["--state-dir", self.directory / "state", "--run-dir", self.run_dir]
        arguments += ["--enable-endpoint-health-checking", "false"]  # so that all endpoints there are of the test
        self._run("agent", self.node_netns, [*arguments, "--bpf-root", self.bpf_root, *more])
        wait_for("the agent", lambda: self._answers(self.status))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(10)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    # --- pods

    def pod_netns(self, name: str) -> Path:
        path = Path(f"/var/run/netns/{self._prefix}-p{name}")
        if path not in self._pods:
            create_netns(path)
            self._pods.append(path)
        return path

    def cni(self, command: str, pod: str = "", container: str = "", **config: Any) -> dict[str, Any]:
        """What the plugin prints; `{}` for nothing."""
        conf = {"cniVersion": "1.1.0", "name": "kilim", "type": "kilim-cni", "socket": str(self.run_dir / "cni.sock")}
        environment = {"PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_IFNAME": "eth0"}
        if pod:
            environment["CNI_CONTAINERID"] = container or f"c-{pod}"
            environment["CNI_NETNS"] = str(self.pod_netns(pod))
            environment["CNI_ARGS"] = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"
        ran = subprocess.run(
            [BIN / "kilim-cni"], input=json.dumps({**conf, **config}), env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not ran.stderr, ran.stderr
        answer: dict[str, Any] = json.loads(ran.stdout) if ran.stdout.strip() else {}
        assert ran.returncode == ("code" in answer)
        return answer

    def connect(self, pod: str, address: str, port: int = 80) -> bool:
        """Whether a TCP connection from the pod opens; its listener is made by `listen`."""
        with in_netns(self.pod_netns(pod), lambda: socket.socket(_family(address))) as opened:
            opened.settimeout(0.6)
            return opened.connect_ex((address, port)) == 0

    def listen(self, pod: str, address: str, port: int = 80) -> Any:
        opened = in_netns(self.pod_netns(pod), lambda: socket.socket(_family(address)))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        opened.listen(16)
        return opened

    def links(self) -> set[str]:
        return in_netns(self.node_netns, _pod_links)

    # --- who knows what

    @property
    def server(self) -> str:
        ip = self.families[0].server_ip
        return f"[{ip}]:4260" if ":" in ip else f"{ip}:4260"

    @property
    def api_socket(self) -> Path:
        return self.directory / "api.sock"

    def status(self) -> agent_pb2.AgentStatusResponse:
        with grpc.insecure_channel(f"unix:{self.run_dir / 'agent.sock'}") as channel:
            stub = agent_pb2_grpc.AgentStub(channel)
            return stub.Status(agent_pb2.AgentStatusRequest(), timeout=2)

    def is_in_sync(self) -> bool:
        try:
            return self.status().in_sync
        except grpc.RpcError:
            return False

    def table(self, name: str, kernel: bool = True, timeout_s: float = 2) -> list[list[str]]:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"unix:{self.run_dir / 'agent.sock'}", options) as channel:
            stub = agent_pb2_grpc.AgentStub(channel)
            answer = stub.DumpTable(agent_pb2.DumpTableRequest(table=name, kernel=kernel), timeout=timeout_s)
            return [list(row.cells) for row in answer.rows]

    def apply(self, manifest: dict[str, Any]) -> None:
        with grpc.insecure_channel(f"unix:{self.api_socket}") as channel:
            one = controlplane_pb2.Manifest(json=json.dumps(manifest), source="test")
            request = controlplane_pb2.ApplyRequest(manifests=[one], actor="test")
            seq = controlplane_pb2_grpc.ResourcesStub(channel).Apply(request, timeout=5).seq
            wait = controlplane_pb2.WaitRequest(seq=seq, timeout_ms=5000)
            assert controlplane_pb2_grpc.ClusterStub(channel).Wait(wait, timeout=6).done

    def endpoints(self) -> set[str]:
        """Names of the endpoints in the log."""
        with grpc.insecure_channel(f"unix:{self.api_socket}") as channel:
            request = controlplane_pb2.ListRequest(kind="Endpoint")
            return {item.name for item in controlplane_pb2_grpc.ResourcesStub(channel).List(request, timeout=5).items}

    def _ready(self) -> None:
        with grpc.insecure_channel(f"unix:{self.api_socket}") as channel:
            request = controlplane_pb2.StatusRequest()
            if not controlplane_pb2_grpc.ClusterStub(channel).Status(request, timeout=2).etcd.reachable:
                raise ConnectionError
        self.endpoints()  # refused until it has read the log

    def _answers(self, ask: Callable[[], object]) -> bool:
        try:
            ask()
        except (grpc.RpcError, ConnectionError):
            return False
        return True

    def _run(self, name: str, netns: Path, arguments: list[Any]) -> None:
        command = ["nsenter", f"--net={netns}", "--", BIN / "kilim", *arguments]
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


def _make_wire(peer_netns_fd: int) -> None:
    with open_netlink() as ipr:
        ipr.link("add", ifname="wire0", kind="veth", peer={"ifname": "wire1", "net_ns_fd": peer_netns_fd})


def _bring_up(name: str, addresses: dict[str, Family]) -> None:
    with open_netlink() as ipr:
        ipr.link("set", index=1, state="up")
        index = ipr.link_lookup(ifname=name)[0]
        for address, family in addresses.items():
            flags = {"flags": NODAD} if ":" in address else {}
            ipr.addr("add", index=index, address=address, prefixlen=family.prefix_len, **flags)
        ipr.link("set", index=index, state="up")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _pod_links() -> set[str]:
    with open_netlink() as ipr:
        names = {link.get_attr("IFLA_IFNAME") for link in ipr.get_links()}
        return {name for name in names if name.startswith("lxc")}
