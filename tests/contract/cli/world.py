"""A small cluster's history made through a real replica, and the command line run beside it."""

from __future__ import annotations

import asyncio
from typing import Any

from click.testing import CliRunner

from kilim.cli.main import main
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import Running, namespace, policy


async def kilim(*arguments: str) -> tuple[int, str, str]:
    """Status, stdout, stderr; in a thread, as the replica lives on this loop."""
    result = await asyncio.to_thread(lambda: CliRunner().invoke(main, list(arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def allow(name: str, subject: dict[str, str], peer: dict[str, str], port: int) -> dict[str, Any]:
    manifest = policy(name)
    rule = {"from": [{"podSelector": {"matchLabels": peer}}], "ports": [{"port": port}]}
    manifest["spec"] |= {"podSelector": {"matchLabels": subject}, "ingress": [rule]}
    return manifest


async def shop(r: Running) -> int:
    """Two nodes, three pods, closed, then one way opened, moved to another port, and a pod gone; returns the head."""
    await r.register_node("node1", "192.0.2.1")
    await r.register_node("node2", "192.0.2.2")
    await r.apply(namespace("shop", team="a"))
    await r.register_endpoint("node1", "web", "10.244.0.2", 1, app="web")
    await r.register_endpoint("node2", "db", "10.244.1.2", 1, app="db")
    await r.register_endpoint("node2", "cache", "10.244.1.3", 2, app="cache")
    await r.apply(policy("closed"))
    await r.apply(allow("db", {"app": "db"}, {"app": "web"}, 5432))
    await r.apply(allow("db", {"app": "db"}, {"app": "web"}, 5433))
    gone = await r.nodes.RemoveEndpoint(
        api.RemoveEndpointRequest(node="node2", namespace="shop", name="cache", cause="cni DEL"), timeout=20
    )
    return int(gone.seq)
