"""How a lab is: everything it has, with namespaces, addresses and pids; asked of the kernel and the agents, now."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from kilim.lab import names
from kilim.lab.commands import agent_socket
from kilim.lab.pods import RunningPod, running_pods
from kilim.lab.process import pid_of
from kilim.lab.topology import Lab, Node, Server
from kilim.v1 import agent_pb2, agent_pb2_grpc

_ATTEMPT_S = 2.0


async def lab_status(lab: Lab) -> dict[str, Any]:
    """`pid` is null where the process does not run, `endpoint_id` where the agent does not say.

    `netns` is the network namespace everywhere; `namespace` is the same, but of a pod it is that of Kubernetes.
    """
    endpoint_ids = dict(
        zip(
            (node.name for node in lab.nodes),
            await asyncio.gather(*(_endpoint_ids(lab, node.name) for node in lab.nodes)),
            strict=True,
        )
    )
    return {
        "name": lab.name,
        "run_dir": str(lab.run_dir),
        "nodes": [_node(lab, node) for node in lab.nodes],
        "pods": [_pod(pod, endpoint_ids.get(pod.node, {})) for pod in running_pods(lab)],
        "replicas": [_server(lab, replica) for replica in lab.replicas],
        "etcd": [_server(lab, member) for member in lab.etcd],
        "externals": [_external(lab, e.name, e.ip) for e in lab.externals],
        "relay": {"pid": pid_of(lab.name, "relay")},
        "workloads": {"pid": pid_of(lab.name, "workloads")},
        "notes": ["SCTP is probed by INIT and INIT ACK on raw sockets; there are no SCTP associations"],
    }


async def pod_status(lab: Lab, pod: RunningPod) -> dict[str, Any]:
    return _pod(pod, await _endpoint_ids(lab, pod.node))


def _node(lab: Lab, node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        **_netns(lab, node.name),
        "addresses": list(node.ips),
        "pod_cidrs": list(node.pod_cidrs),
        "agent": {"address": f"unix:{agent_socket(lab, node.name)}", "pid": pid_of(lab.name, node.name)},
        "bpf_root": str(names.pin_dir(lab.name) / node.name),
    }


def _pod(pod: RunningPod, endpoint_ids: dict[str, int]) -> dict[str, Any]:
    return {
        "namespace": pod.pod.namespace,
        "name": pod.pod.name,
        "netns": pod.netns.rpartition("/")[2],
        "node": pod.node,
        "ips": list(pod.ips),
        "endpoint_id": endpoint_ids.get(pod.ip),
        "container_id": pod.container_id,
        "labels": pod.pod.labels,
        "ports": [{"port": p.port, "protocol": p.protocol, "name": p.name} for p in pod.pod.ports],
    }


def _server(lab: Lab, server: Server) -> dict[str, Any]:
    return {
        "name": server.name,
        **_netns(lab, server.name),
        "address": server.address,
        "loopback_address": server.loopback,
        "pid": pid_of(lab.name, server.name),
    }


def _external(lab: Lab, name: str, ip: str) -> dict[str, Any]:
    return {"name": name, **_netns(lab, names.external_role(name)), "addresses": [ip]}


def _netns(lab: Lab, role: str) -> dict[str, str]:
    name = names.netns_name(lab.name, role)
    return {"namespace": name, "netns": name}


async def _endpoint_ids(lab: Lab, node: str) -> dict[str, int]:
    """By IP; empty where the agent does not answer."""
    async with grpc.aio.insecure_channel(f"unix:{agent_socket(lab, node)}") as channel:
        try:
            stub = agent_pb2_grpc.AgentStub(channel)
            table = await stub.DumpTable(agent_pb2.DumpTableRequest(table="endpoints"), timeout=_ATTEMPT_S)
        except grpc.aio.AioRpcError:
            return {}
    columns = list(table.columns)
    ip, endpoint_id = columns.index("ip"), columns.index("endpoint_id")
    return {row.cells[ip]: int(row.cells[endpoint_id]) for row in table.rows}
