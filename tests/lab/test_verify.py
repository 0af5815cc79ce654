"""Maps of a node changed behind the agent's back: `kilim verify` names each row, the agent repairs them and says so."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kilim.agent.bpf import layout
from kilim.agent.bpf.addresses import ips_of
from kilim.agent.bpf.maps import Map
from kilim.agent.bpf.pins import find_pin
from kilim.lab import api
from kilim.lab.client import agent_status
from kilim.lab.commands import agent_socket
from kilim.lab.names import pin_dir
from kilim.lab.netns import in_netns
from kilim.lab.topology import Lab
from kilim.model.address import format_ip, host_length, mapped, parse_ip
from kilim.v1 import agent_pb2

METRICS = "http://127.0.0.1:9962/metrics"
KILIM = Path(sys.executable).parent / "kilim"
PATIENCE_S = 30.0
NOBODY = ("203.0.113.9", "2001:db8::9")
Difference = tuple[str, str, str | None, str | None]  # table, key, in the kernel, in the log


@pytest.fixture(scope="module")
def lab(name_prefix: str) -> Iterator[Lab]:
    name = f"{name_prefix}-v"
    try:
        yield asyncio.run(api.up(name, nodes=2, replicas=1))
    finally:
        api.down(name)


def kilim(lab: Lab, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "KILIM_LAB": lab.name}
    done = subprocess.run([KILIM, *arguments], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def verified(lab: Lab) -> dict[str, set[Difference]]:
    """By node the rows that differ."""
    status, out = kilim(lab, "verify", "-o", "json")
    answer = json.loads(out)
    found = {
        node["node"]: {(each["table"], each["key"], each["kernel"], each["log"]) for each in node["differences"]}
        for node in answer["nodes"]
    }
    assert status == (1 if any(found.values()) else 0) and answer["ok"] == (status == 0)
    return found


def agent(lab: Lab, node: str) -> agent_pb2.AgentStatusResponse:
    return asyncio.run(agent_status(agent_socket(lab, node)))


def until(holds: Callable[[], bool]) -> None:
    async def look() -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(holds):  # noqa: ASYNC110  # an agent can only be asked
                await asyncio.sleep(0.1)

    asyncio.run(look())


def change_one_and_add_one(ipcache: Map, nobody: str) -> list[Difference]:
    """The entry of a pod on the other node, and one of an address of nobody of the same family; how they differ now."""
    keys, values = ipcache.read()
    length = host_length(parse_ip(nobody))
    number = next(
        n
        for n, (ip, value) in enumerate(zip(ips_of(keys["ip"]), values, strict=True))
        if any(value["tunnel_endpoint"].tobytes()) and value["identity"] > 255 and host_length(ip) == length
    )
    key, value = keys[number : number + 1].copy(), values[number : number + 1].copy()
    ip, identity, tunnel = ips_of(key["ip"])[0], int(value[0]["identity"]), ips_of(value["tunnel_endpoint"])[0]
    value["identity"] = identity + 7
    ipcache.update(key, value)
    key["ip"] = np.void(mapped(parse_ip(nobody)))
    ipcache.update(key, value)
    found, wanted = (f"{each} {format_ip(tunnel)}" for each in (identity + 7, identity))
    return [
        ("ipcache", f"{format_ip(ip)}/{length}", found, wanted),
        ("ipcache", f"{nobody}/{length}", found, None),
    ]


def test_rows_changed_by_hand_are_named_and_repaired(lab: Lab) -> None:
    assert kilim(lab, "setting", "set", "read-back-interval-s", "3600")[0] == 0
    until(lambda: all(agent(lab, node.name).seq == agent(lab, "node1").seq for node in lab.nodes))
    assert verified(lab) == {"node1": set(), "node2": set()}
    before = agent(lab, "node1").drift_repairs
    wanted = layout.MAP_ROWS.keys() - layout.SOCKOPS_MAPS
    maps = {name: Map.open(find_pin(pin_dir(lab.name) / "node1" / "maps", name)) for name in wanted}
    try:
        wrong = [row for nobody in NOBODY for row in change_one_and_add_one(maps["ipcache"], nobody)]
        keys, values = maps["endpoints"].read()
        maps["endpoints"].delete(keys[:1])
        gone, row = format_ip(ips_of(keys["ip"])[0]), f"{values[0]['endpoint_id']} {values[0]['identity']} -"
    finally:
        for each in maps.values():
            os.close(each.fd)
    assert verified(lab) == {"node1": {*wrong, ("endpoints", gone, None, row)}, "node2": set()}
    assert agent(lab, "node1").drift_repairs == before  # its period is an hour

    assert kilim(lab, "setting", "set", "read-back-interval-s", "1")[0] == 0
    until(lambda: agent(lab, "node1").drift_repairs == before + len(wrong) + 1)
    assert verified(lab) == {"node1": set(), "node2": set()}
    assert agent(lab, "node2").drift_repairs == 0
    with in_netns(lab.netns("node1"), lambda: urllib.request.urlopen(METRICS, timeout=10)) as answer:
        metrics = answer.read().decode()
    assert 'kilim_table_drift_repairs_total{table="ipcache"} 4.0' in metrics
    assert 'kilim_table_drift_repairs_total{table="endpoints"} 1.0' in metrics
    assert 'cilium_bpf_map_pressure{map_name="ipcache"}' in metrics
    log = (lab.run_dir / "logs" / "node1.log").read_text()
    for _, key, found, wanted in wrong:
        assert f"ipcache {key}: found {found}, wanted {wanted or 'nothing'}" in log
