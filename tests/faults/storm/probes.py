"""Pods that nothing but the prober uses, what policy allows between them, and the judgement of what it saw.

client ─▶ server   allowed        stranger ─▶ server   denied at the server (ingress)
                                  server ─▶ stranger   denied at the server (egress)      each on both nodes, crosswise
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kilim.lab.pods import RunningPod
from kilim.lab.topology import Node, Pod
from tests.faults.storm.record import Injected

NAMESPACE = "probe"
PORT = 7000
ROLES = ("client", "server", "stranger")
ALLOWED, DENIED = (("client", "server"),), (("stranger", "server"), ("server", "stranger"))
POLICY_DROPS = {"POLICY_DENIED", "POLICY_DENY", "NO_POLICY"}


def probe_pods(nodes: Sequence[Node]) -> list[Pod]:
    return [Pod(NAMESPACE, f"{role}-{node.name}", {"app": role}, (), node.name) for node in nodes for role in ROLES]


def probe_policy() -> dict[str, Any]:
    def peer(app: str) -> dict[str, Any]:
        return {"podSelector": {"matchLabels": {"app": app}}}

    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "probes", "namespace": NAMESPACE},
        "spec": {
            **peer("server"),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [peer("client")], "ports": [{"port": PORT}]}],
            "egress": [{"to": [peer("client")], "ports": [{"port": PORT}]}],
        },
    }


@dataclass(frozen=True, slots=True)
class Probed:
    seconds: float
    cpu_share: float
    late_ticks: int
    denied_syns: int
    pairs: list[tuple[str, str, bool, int, int]]  # source, target, allowed, done, lost packets
    wrong: list[dict[str, Any]]

    @property
    def done(self) -> int:
        return sum(pair[3] for pair in self.pairs)

    def total(self, allowed: bool) -> int:
        return sum(pair[3] for pair in self.pairs if pair[2] == allowed)

    @property
    def lost(self) -> int:
        return sum(pair[4] for pair in self.pairs)

    def __str__(self) -> str:
        return (
            f"{self.done / self.seconds:.0f} connections/s for {self.seconds:.0f} s, {self.cpu_share:.0%} of a CPU: "
            f"{self.total(True)} allowed ({self.lost} sent something again), {self.total(False)} denied, "
            f"{len(self.wrong)} wrong; {self.late_ticks} times behind"
        )


def ip_of(pod: RunningPod, ip_family: str) -> str:
    return next(ip for ip in pod.ips if not ip_family or (":" in ip) == (ip_family == "IPv6"))


class Prober:
    """`start` returns when the servers listen."""

    def __init__(
        self,
        pods: Iterable[RunningPod],
        rate: float,
        most: int = 0,
        patience_s: float = 20.0,
        most_wrong: int = 200,
        ip_family: str = "",
    ) -> None:
        """`ip_family`: over which the probes go, IPv4 or IPv6; empty: by turns over each that the pods have."""
        self._pods = [
            {"name": p.pod.name, "netns": p.netns, "ips": [ip_of(p, ip_family)] if ip_family else p.ips}
            for p in pods
            if p.pod.namespace == NAMESPACE
        ]
        self._rate = rate
        self._most = most  # 0: until `stop`
        self._patience_s = patience_s
        self._most_wrong = most_wrong  # that are told one by one
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        names = [pod["name"] for pod in self._pods]

        def crosswise(roles: Iterable[tuple[str, str]], allowed: bool) -> list[tuple[str, str, bool]]:
            ends = [(s, t) for s in names for t in names if (s.partition("-")[0], t.partition("-")[0]) in set(roles)]
            return [(source, target, allowed) for source, target in ends]

        wanted = {
            "rate": self._rate,
            "most": self._most,
            "patience_s": self._patience_s,
            "most_wrong": self._most_wrong,
            "port": PORT,
            "pods": self._pods,
            "listeners": [name for name in names if not name.startswith("client")],
            "pairs": crosswise(ALLOWED, True) + crosswise(DENIED, False),
        }
        pipe = asyncio.subprocess.PIPE
        argv = (sys.executable, "-m", "tests.faults.storm.prober")
        self._child = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, limit=1 << 24)
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(json.dumps(wanted).encode() + b"\n")
        assert await self._child.stdout.readline(), "the prober ended at its start"

    async def probe_across(self, wanted: bool) -> None:
        """Denied connections between nodes, or none for now."""
        assert self._child and self._child.stdin and self._child.stdout
        async with self._turn:
            self._child.stdin.write(b"+\n" if wanted else b"-\n")
            await self._child.stdout.readline()

    async def stop(self) -> Probed:
        assert self._child and self._child.stdin
        self._child.stdin.close()
        return await self.finished()

    async def finished(self) -> Probed:
        """When `most` connections were made and have ended."""
        assert self._child and self._child.stdout
        answer = json.loads(await self._child.stdout.readline())
        await self._child.wait()
        return Probed(**answer | {"pairs": [tuple(pair) for pair in answer["pairs"]]})

    async def abandon(self) -> None:
        if self._child and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()


def probe_wrongs(probed: Probed, injected: Sequence[Injected], policy_drops: int) -> list[str]:
    """`policy_drops`: packets that the nodes counted as dropped by policy meanwhile. A connection between nodes may
    fail while one of them was unplugged; a leak is never excused."""
    found = [f"9: {wrong}" for wrong in probed.wrong if not (wrong.get("allowed") and _unplugged(wrong, injected))]
    if policy_drops > probed.denied_syns:
        found.append(f"9: policy dropped {policy_drops} packets, only {probed.denied_syns} were denied: {probed}")
    return found


def _unplugged(wrong: dict[str, Any], injected: Sequence[Injected]) -> bool:
    return _across(wrong["source"], wrong["target"]) and any(
        each.fault == "unplug" and each.began_ns < wrong["ended_ns"] and wrong["began_ns"] < each.ended_ns
        for each in injected
    )


def _across(source: str, target: str) -> bool:
    return source.rpartition("-")[2] != target.rpartition("-")[2]
