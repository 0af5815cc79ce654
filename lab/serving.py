"""How the rest of the lab speaks to the workload server: one JSON line each way over its Unix socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

from kilim.lab.errors import LabError
from kilim.lab.topology import Lab, Port


def workloads_socket(lab: Lab) -> Path:
    return lab.run_dir / "workloads.sock"


async def serve(
    lab: Lab, key: str, netns: Path, ports: tuple[Port, ...], addresses: tuple[str, ...] = ("0.0.0.0", "::")
) -> list[str]:
    """Listens on these ports in the namespace, answering as `key`. Answers what could not be had."""
    request = {
        "op": "serve",
        "key": key,
        "netns": str(netns),
        "addresses": addresses,
        "ports": [{"port": p.port, "protocol": p.protocol} for p in ports],
    }
    return list((await _ask(lab, request))["errors"])


async def stop_serving(lab: Lab, key: str) -> None:
    await _ask(lab, {"op": "drop", "key": key})


async def _ask(lab: Lab, request: dict[str, Any]) -> dict[str, Any]:
    try:
        reader, writer = await asyncio.open_unix_connection(workloads_socket(lab))
    except OSError as error:
        raise LabError(f"the workload server of lab {lab.name} does not answer: {error.strerror}") from None
    writer.write(json.dumps(request).encode() + b"\n")
    line = await reader.readline()
    writer.close()
    if not line:
        raise LabError(f"the workload server of lab {lab.name} failed (see {lab.run_dir}/workloads.log)")
    answer: dict[str, Any] = json.loads(line)
    return answer
