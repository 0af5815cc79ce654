"""`kilim apply|delete --wait` against a real replica with agents that lag, have errors, or are down."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, NamedTuple

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import PATIENCE_S, Running, namespace, replica

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.usefixtures("_no_grace")]


@pytest.fixture(name="_no_grace")
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica has been up for long: a node that it has not heard is down."""
    monkeypatch.setattr("kilim.controlplane.reports.FIND_US_S", 0.0)


class Done(NamedTuple):
    exit_code: int | None
    stdout: str
    stderr: str


async def kilim(r: Running, *arguments: str, stdin: Any = None, server: bool = True) -> Done:
    command = [sys.executable, "-m", "kilim.cli.main", *arguments, *(["--server", r.address] if server else [])]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(json.dumps(stdin).encode() if stdin else None)
    return Done(process.returncode, out.decode(), err.decode())


async def test_wait_names_whoever_is_late_and_why(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        for number in (1, 2, 3, 4):
            await r.register_node(f"node{number}", f"192.0.2.{number}")
        well, slow, ill = (r.nodes.Report() for _ in range(3))
        await well.write(api.NodeReport(node="node1", seq=5))
        await slow.write(api.NodeReport(node="node2", seq=2))
        await ill.write(api.NodeReport(node="node3", seq=4, errors=["map policy is full"]))
        await r.until(lambda status: [node.up for node in status.nodes] == [True, True, True, False])

        done = await kilim(r, "apply", "-f", "-", "--wait", "--timeout", "100ms", stdin=namespace("a"))
        assert done.exit_code == 1
        assert done.stdout == "namespace/a created\n"
        down, late = done.stderr.splitlines()
        assert down == "warning: node node4 is down and was not waited for"
        assert late.startswith(
            "error: seq 5 is not enforced everywhere after 0.1s: node node2 is at 2: 3 events behind, last report "
        )
        assert late.endswith(" ago; node node3 is at 4: map policy is full")

        deleting = asyncio.create_task(kilim(r, "delete", "namespace", "a", "--wait", "--timeout", "20s"))
        await r.until(lambda status: status.seq == 6)
        for call, node in ((well, "node1"), (slow, "node2")):
            await call.write(api.NodeReport(node=node, seq=6))
        ill.cancel()  # a node that goes down is waited for no longer
        done = await asyncio.wait_for(deleting, PATIENCE_S)
        assert (done.exit_code, done.stdout) == (0, "namespace/a deleted\n")
        assert done.stderr.splitlines() == [
            f"warning: node {node} is down and was not waited for" for node in ("node3", "node4")
        ]
        for call in (well, slow):
            call.cancel()


async def test_nobody_up_is_a_failure(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await r.register_node("node1", "192.0.2.1")
        done = await kilim(r, "apply", "-f", "-", "--wait", stdin=namespace("a"))
        assert done.exit_code == 1
        assert done.stderr.splitlines() == [
            "warning: node node1 is down and was not waited for",
            "error: no node is up: seq 2 is enforced when their agents run again",
        ]
