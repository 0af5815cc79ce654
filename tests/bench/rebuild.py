"""A cold agent and a large cluster: 250,000 endpoints of 25,000 identities to filled maps of the kernel.

From a snapshot: an agent without a cache is sent the present state. From events: its cache is of an empty log, so it is
sent every event. Both are from the start of the process to its first complete report, beside merely reading the log's
bytes from etcd; what the same start takes with an empty log is told apart.
"""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.log import EventLog
from kilim.lab.client import ControlPlane, agent_status
from kilim.lab.commands import CLUSTER, agent_process, agent_socket, replica_targets
from kilim.lab.names import pin_dir
from kilim.lab.process import start_process, stop_process
from kilim.lab.topology import Lab
from kilim.model.identity import Identity
from kilim.model.nouns import Endpoint, endpoint_to_pb, identity_to_pb, node_to_pb
from kilim.model.nouns import Node as NodeNoun
from kilim.v1 import events_pb2 as pb
from tests.bench.measure import Result, compared, publish, single
from tests.bench.memory import agent_kib
from tests.bench.netload import BenchError
from tests.bench.stage import stage

ENDPOINTS = 250_000
IDENTITIES = 25_000
_REMOTE_NODES = 1_000
_RECORDS_A_COMMIT = 1_000
_ROUNDS = 2
_PAGE = 10_000
_PATIENCE_S = 120.0


def _records() -> list[bytes]:
    events = []
    now_ns = time.time_ns()
    for name in ("snapshot-every-events", "log-retention-events"):  # nothing is trimmed while it is measured
        events.append(pb.Event(setting_changed=pb.SettingChanged(setting=pb.Setting(name=name, value="10000000"))))
    for number in range(_REMOTE_NODES):
        node = NodeNoun(f"remote{number}", 0x0B000000 + number)
        events.append(pb.Event(node_joined=pb.NodeJoined(node=node_to_pb(node))))
    for number in range(IDENTITIES):
        labels = (f"k8s:app=app{number}", "k8s:io.kubernetes.pod.namespace=bench")
        identity = identity_to_pb(Identity(1000 + number, labels))
        events.append(pb.Event(identity_allocated=pb.IdentityAllocated(identity=identity)))
    for number in range(ENDPOINTS):
        endpoint = Endpoint(
            namespace="bench",
            name=f"app{number % IDENTITIES}-7d4b9c6f5-{number:06d}",
            node=f"remote{number % _REMOTE_NODES}",
            endpoint_id=1 + number // _REMOTE_NODES,
            ip=0x0A800000 + number,
            identity=1000 + number % IDENTITIES,
            container_id=f"{number:064x}",
            labels=(("app", f"app{number % IDENTITIES}"),),
            service_account="default",
        )
        events.append(pb.Event(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(endpoint))))
    for event in events:
        event.actor, event.cause, event.time_ns = "bench", "bench", now_ns
    return [event.SerializeToString() for event in events]


async def _fill(lab: Lab, records: list[bytes]) -> int:
    etcd = EtcdClient([lab.etcd[0].loopback])
    log = EventLog(etcd, CLUSTER)
    head = await log.head()
    for start in range(0, len(records), _RECORDS_A_COMMIT):
        _, head = await log.append(head, records[start : start + _RECORDS_A_COMMIT])
    await etcd.close()
    return head.last_seq


async def _read_bytes(lab: Lab, last_seq: int) -> float:
    """Seconds to fetch the log's values by bounded pages, without looking at them."""
    etcd = EtcdClient([lab.etcd[0].loopback])
    prefix = f"/kilim/v1/{lab.name}/log/"
    start = time.perf_counter()
    for first in range(1, last_seq + 1, _PAGE):
        await etcd.get_range(f"{prefix}{first:020d}", f"{prefix}{first + _PAGE:020d}")
    took = time.perf_counter() - start
    await etcd.close()
    return took


def _state_dir(lab: Lab) -> Path:
    return lab.node_run_dir(lab.nodes[0].name) / "state"


def _make_cold(lab: Lab, cache: Path | None) -> None:
    """Stopped, no maps, and what it knows is in `cache`, if anything."""
    node = lab.nodes[0]
    stop_process(lab.name, node.name)
    shutil.rmtree(_state_dir(lab), ignore_errors=True)
    if cache is not None:
        shutil.copytree(cache, _state_dir(lab))
    shutil.rmtree(pin_dir(lab.name) / node.name, ignore_errors=True)
    (pin_dir(lab.name) / node.name).mkdir(parents=True, exist_ok=True)


async def _cold_start(lab: Lab, seq: int, cache: Path | None = None) -> float:
    """Seconds from the start of the process to maps that hold everything up to `seq`."""
    node = lab.nodes[0]
    await asyncio.to_thread(_make_cold, lab, cache)
    start = time.perf_counter()
    start_process(lab.name, agent_process(lab, node))
    await _in_sync(lab, seq)
    return time.perf_counter() - start


async def _in_sync(lab: Lab, seq: int) -> None:
    """The agent's maps hold everything up to `seq`."""
    start = time.perf_counter()
    while True:
        status = await agent_status(agent_socket(lab, lab.nodes[0].name), 5.0)
        if status is not None and status.in_sync and status.seq >= seq:
            return
        if time.perf_counter() - start > _PATIENCE_S:
            raise BenchError(f"the agent did not reach seq {seq} in {_PATIENCE_S:g} s")
        await asyncio.sleep(0.02)


async def _settled(lab: Lab, seq: int) -> None:
    await _in_sync(lab, seq)
    async with ControlPlane(replica_targets(lab)) as plane:
        await plane.wait(seq, _PATIENCE_S)


async def _measure(lab: Lab, cache: Path) -> list[Result]:
    empty = [await _cold_start(lab, 1) for _ in range(_ROUNDS)]
    little_kib = agent_kib(lab, lab.nodes[0].name)
    await asyncio.to_thread(_make_cold, lab, None)
    await _cold_start(lab, 1)
    stop_process(lab.name, lab.nodes[0].name)
    await asyncio.to_thread(shutil.copytree, _state_dir(lab), cache)
    last_seq = await _fill(lab, await asyncio.to_thread(_records))
    start_process(lab.name, agent_process(lab, lab.nodes[0]))
    await _settled(lab, last_seq)
    from_snapshot, from_events, reading, memory = [], [], [], []
    for _ in range(_ROUNDS):
        from_snapshot.append(await _cold_start(lab, last_seq))
        memory.append((agent_kib(lab, lab.nodes[0].name) - little_kib) / ENDPOINTS)
        reading.append(await _read_bytes(lab, last_seq))
        from_events.append(await _cold_start(lab, last_seq, cache))
    return [
        compared("rebuild_from_snapshot_s", "s", "reading the bytes", from_snapshot, reading),
        compared("rebuild_from_events_s", "s", "reading the bytes", from_events, reading),
        single("start_with_empty_log_s", "s", empty),
        single("agent_memory_per_endpoint_kib", "KiB", memory),
    ]


async def _run() -> None:
    async with stage(nodes=1, replicas=1) as lab:
        with tempfile.TemporaryDirectory(prefix="kilim-bench-") as folder:
            publish("rebuild", await _measure(lab, Path(folder) / "cache"))


def run() -> None:
    asyncio.run(_run())
