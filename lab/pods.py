"""Pods of a lab: a namespace made here, then connected by the real CNI plugin as a container runtime would.

    apply Namespace, Pod objects ─▶ netns ─▶ nsenter NODE kilim-cni ADD ─▶ agent ─▶ workload server listens in the netns

Each pod has a file in `pods/`, so that commands that run at the same time do not overwrite one another's knowledge.
"""

import asyncio
import dataclasses
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilim.lab import commands, names
from kilim.lab.cgroup import process_cgroup, remove_cgroup
from kilim.lab.client import ControlPlane, Refused
from kilim.lab.errors import BadInput, LabError
from kilim.lab.interrupt import build_in_thread
from kilim.lab.manifests import namespace_manifest, pod_manifest
from kilim.lab.netns import create_netns, delete_netns
from kilim.lab.process import program
from kilim.lab.serving import serve, stop_serving
from kilim.lab.topology import Lab, Pod, ports_from, write_atomically

INTERFACE = "eth0"
_CONCURRENT_CNI = 6
_TRY_AGAIN_LATER = 11  # CNI's error code; a runtime calls again
_TRY_AGAIN_S = 20.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class RunningPod:
    pod: Pod
    node: str
    netns: str
    container_id: str
    ips: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.pod.key

    @property
    def ip(self) -> str:
        return self.ips[0]


def running_pods(lab: Lab) -> list[RunningPod]:
    files = sorted((lab.run_dir / "pods").glob("*.json"))
    return [_decoded(json.loads(file.read_text())) for file in files]


def running_pod(lab: Lab, key: str) -> RunningPod:
    pods = running_pods(lab)
    for pod in pods:
        if pod.key == key:
            return pod
    raise BadInput(f"lab {lab.name} has no pod {key!r} (it has {', '.join(p.key for p in pods) or 'none'})")


async def add_pods(
    lab: Lab, plane: ControlPlane, namespaces: dict[str, dict[str, str]], pods: Sequence[Pod]
) -> list[RunningPod]:
    """Applies the objects in one call, then connects the pods. The pods serve their ports when this returns."""
    objects = [(f"namespace {name}", namespace_manifest(name, labels)) for name, labels in namespaces.items()]
    objects += [(f"pod {pod.key}", pod_manifest(pod)) for pod in pods]
    if objects:
        await plane.apply(objects)
    return await start_pods(lab, pods)


async def start_pods(lab: Lab, pods: Sequence[Pod]) -> list[RunningPod]:
    """Connects pods whose objects are applied already."""
    taken = {pod.key for pod in running_pods(lab)}
    limit = asyncio.Semaphore(_CONCURRENT_CNI)

    async def start(pod: Pod) -> RunningPod:
        async with limit:
            return await _start_pod(lab, pod)

    for pod in pods:
        if pod.key in taken:
            raise BadInput(f"lab {lab.name} has a pod {pod.key} already")
    return list(await asyncio.gather(*(start(pod) for pod in pods)))


async def remove_pod(lab: Lab, plane: ControlPlane, key: str, delete_object: bool = True) -> None:
    pod = running_pod(lab, key)
    await stop_serving(lab, key)
    await _call_cni(lab, "DEL", pod.node, pod.pod, pod.container_id, Path(pod.netns))
    # commands that run in the pod would keep its namespace alive
    remove_cgroup(process_cgroup(lab.name, names.pod_role(pod.pod.namespace, pod.pod.name)))
    delete_netns(Path(pod.netns))
    _record_path(lab, pod.pod).unlink(missing_ok=True)
    if delete_object:
        try:
            await plane.delete("Pod", pod.pod.namespace, pod.pod.name, f"pod {key}")
        except Refused:
            pass  # somebody has deleted the object before its pod


async def _start_pod(lab: Lab, pod: Pod) -> RunningPod:
    node = pod.node or lab.nodes[0].name
    lab.node(node)
    netns = lab.netns(names.pod_role(pod.namespace, pod.name))
    container_id = uuid.uuid4().hex
    await build_in_thread(lambda: _create_pod_netns(netns))
    try:
        result = await _call_cni(lab, "ADD", node, pod, container_id, netns)
    except BaseException:
        delete_netns(netns)
        raise
    ips = tuple(entry["address"].partition("/")[0] for entry in result["ips"])
    running = RunningPod(pod, node, str(netns), container_id, ips)
    write_atomically(_record_path(lab, pod), dataclasses.asdict(running))
    if errors := await serve(lab, pod.key, netns, pod.ports):
        raise LabError(f"pod {pod.key} cannot serve {', '.join(errors)}")
    return running


def _create_pod_netns(path: Path) -> None:
    from kilim.lab.fabric import bring_up_loopback

    create_netns(path)
    bring_up_loopback(path)


async def _call_cni(lab: Lab, command: str, node: str, pod: Pod, container_id: str, netns: Path) -> dict[str, Any]:
    """The plugin's result. Calls again while the plugin says so, as runtimes do."""
    config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "kilim", "type": "kilim-cni"}
    config["socket"] = commands.cni_socket(lab, node)
    if pod.ips:
        config["runtimeConfig"] = {"ips": [f"{ip}/{128 if ':' in ip else 32}" for ip in pod.ips]}
    plugin = program("kilim-cni")
    environment = {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": INTERFACE,
        "CNI_PATH": os.path.dirname(plugin),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name}",
    }
    argv = ["nsenter", f"--net={lab.netns(node)}", "--", plugin]
    deadline = asyncio.get_running_loop().time() + _TRY_AGAIN_S
    while True:
        answer = await _run_plugin(argv, environment, config)
        if "code" not in answer:
            return answer
        late = asyncio.get_running_loop().time() > deadline
        if answer["code"] != _TRY_AGAIN_LATER or late:
            details = f" ({answer['details']})" if answer.get("details") else ""
            raise LabError(f"CNI {command} of {pod.key} on {node}: {answer.get('msg')}{details}")
        await asyncio.sleep(_PAUSE_S)


async def _run_plugin(argv: list[str], environment: dict[str, str], config: dict[str, Any]) -> dict[str, Any]:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    output, errors = await child.communicate(json.dumps(config).encode())
    try:
        answer = json.loads(output) if output.strip() else {}
    except ValueError:
        answer = {"code": 999, "msg": f"no JSON: {output[:200]!r}"}
    if child.returncode != 0 and "code" not in answer:
        answer = {"code": 999, "msg": errors.decode(errors="replace").strip() or f"exit status {child.returncode}"}
    assert isinstance(answer, dict)
    return answer


def _record_path(lab: Lab, pod: Pod) -> Path:
    return lab.run_dir / "pods" / f"{names.netns_name(lab.name, names.pod_role(pod.namespace, pod.name))}.json"


def _decoded(data: dict[str, Any]) -> RunningPod:
    pod = data["pod"]
    return RunningPod(
        Pod(**{**pod, "ports": ports_from(pod["ports"])}),
        data["node"],
        data["netns"],
        data["container_id"],
        tuple(data["ips"]),
    )


def by_key(pods: Iterable[RunningPod]) -> dict[str, RunningPod]:
    return {pod.key: pod for pod in pods}
