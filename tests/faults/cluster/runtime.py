"""A container runtime as hard to discourage as a kubelet: calls the real plugin again until it says yes.

Namespaces are named as the lab names those of its pods, so that `lab down` finds them.
"""

import asyncio
import itertools
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kilim.agent.core.link import link_name
from kilim.agent.health.endpoint import health_link
from kilim.lab import commands, names
from kilim.lab.netns import create_netns, delete_netns, in_netns
from kilim.lab.process import program
from kilim.lab.topology import Lab

NAMESPACE = "cni"
IFNAME = "eth0"
PAUSE_S = 0.1
TRY_AGAIN_LATER = 11


@dataclass(slots=True)
class Sandbox:
    """One container of a pod; a pod that is created anew has another."""

    pod: str
    node: str
    container_id: str
    netns: Path
    ip: str = ""

    @property
    def link(self) -> str:
        return link_name(self.container_id, IFNAME)


@dataclass(slots=True)
class Runtime:
    lab: Lab
    live: dict[str, Sandbox] = field(default_factory=dict)  # by container id: ADD has succeeded, DEL not yet begun
    refused: int = 0  # calls that the runtime had to repeat
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def sandbox(self, pod: str, node: str) -> Sandbox:
        number = next(self._numbers)
        netns = self.lab.netns(names.pod_role(NAMESPACE, f"{pod}-{number}"))
        create_netns(netns)
        return Sandbox(pod, node, f"{pod}-{number:04}-{os.getpid():x}", netns)

    async def add(self, sandbox: Sandbox, patience_s: float = 30.0) -> None:
        """Until it succeeds; asserts that nobody else has the address."""
        answer = await self._again("ADD", sandbox, patience_s)
        sandbox.ip = answer["ips"][0]["address"].partition("/")[0]
        holders = [other for other in self.live.values() if other.ip == sandbox.ip]
        assert not holders, f"{sandbox} has the address of {holders}"
        self.live[sandbox.container_id] = sandbox

    async def delete(self, sandbox: Sandbox, patience_s: float = 30.0) -> None:
        self.live.pop(sandbox.container_id, None)
        await self._again("DEL", sandbox, patience_s)
        await asyncio.to_thread(delete_netns, sandbox.netns)

    async def _again(self, command: str, sandbox: Sandbox, patience_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while True:
            answer = await self.call(command, sandbox)
            if "code" not in answer:
                return answer
            assert answer["code"] == TRY_AGAIN_LATER, f"{command} of {sandbox}: {answer}"
            self.refused += 1
            assert time.monotonic() < deadline, f"{command} of {sandbox}: {answer} for {patience_s:g} s"
            await asyncio.sleep(PAUSE_S)

    async def call(self, command: str, sandbox: Sandbox) -> dict[str, Any]:
        """What the plugin prints, once."""
        config = {"cniVersion": "1.1.0", "name": "kilim", "type": "kilim-cni"}
        config["socket"] = commands.cni_socket(self.lab, sandbox.node)
        labels = {"args": {"cni": {"labels": [{"key": "app", "value": sandbox.pod}]}}}
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox.container_id,
            "CNI_NETNS": str(sandbox.netns),
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": os.path.dirname(program("kilim-cni")),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={sandbox.pod}",
        }
        argv = ["nsenter", f"--net={self.lab.netns(sandbox.node)}", "--", program("kilim-cni")]
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, env=environment)
        output, _ = await child.communicate(json.dumps(config | labels).encode())
        answer = json.loads(output) if output.strip() else {}
        assert isinstance(answer, dict) and (child.returncode != 0) == ("code" in answer), answer
        return answer


def pod_links(lab: Lab, node: str) -> set[str]:
    """Host sides of pods, as the kernel has them."""
    return in_netns(lab.netns(node), lambda: {name for name in _links() if name.startswith("lxc")}) - {
        health_link(node)
    }


def pinned_links(lab: Lab, node: str) -> set[str]:
    """Host sides of pods to which a program is attached by a pin."""
    pins = os.listdir(names.pin_dir(lab.name) / node / "links")
    return {pin.rpartition("-")[0] for pin in pins if pin.startswith("lxc")} - {health_link(node)}


def _links() -> list[str]:
    import socket

    return [name for _, name in socket.if_nameindex()]
