"""The metrics of an agent over HTTP: what it says of the log, of its tables and of packets."""

import asyncio
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kilim.agent import memory_tables
from kilim.agent.bpf.counters import Counted
from kilim.agent.memory_tables import MemoryTables
from kilim.agent.records import AUDITED
from kilim.agent.runtime import serve
from kilim.agent.settings import Settings
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.agent.test_memory import all_enforce
from tests.contract.controlplane.harness import policy, replica

Samples = dict[tuple[str, tuple[str, ...]], float]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def samples_of(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


async def scrape(port: int) -> Samples:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: bytes = answer.read()
        return text.decode()

    return samples_of(await asyncio.to_thread(get))


async def test_what_an_agent_says_of_itself(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[MemoryTables] = []

    class Packets(memory_tables.MemoryDatapath):
        def __init__(self) -> None:
            super().__init__()
            made.append(self.tables)

        def counters(self) -> list[Counted]:
            counts = (133, 0, 5, 300), (151, 1, 1, 60), (0, 1, 9, 900), (1, 0, 3, 0), (AUDITED, 0, 4, 240)
            return [Counted(*each) for each in counts]

    monkeypatch.setattr(memory_tables, "MemoryDatapath", Packets)
    stop, port = asyncio.Event(), free_port()
    async with replica(etcd.endpoints, cluster) as r:
        settings = Settings(
            "node1", "192.0.2.1", (r.address,), state_dir=tmp_path / "state", run_dir=tmp_path / "run",
            datapath_mode="memory", prometheus_serve_addr=f"127.0.0.1:{port}",
        )  # fmt: skip
        serving = asyncio.create_task(serve(settings, stop))
        try:
            await r.until(lambda status: any(node.up and node.seq for node in status.nodes))
            await r.register_endpoint("node1", "web", "10.244.0.9", 7, app="web")
            head = (await r.apply(policy("closed"))).seq
            await all_enforce(r, head)
            found = await scrape(port)
            for name in ("kilim_log_seq", "kilim_enforced_seq"):
                assert found[name, ()] == head
            assert (found["kilim_in_sync", ()], found["kilim_log_lag_events", ()]) == (1, 0)
            assert (found["cilium_endpoint", ()], found["cilium_policy", ()]) == (1, 1)
            assert found["kilim_table_rows", ("endpoints",)] == 1
            assert found["kilim_read_back_period_seconds", ()] == 30
            assert found["cilium_drop_count_total", ("INGRESS", "Policy denied")] == 5
            assert found["cilium_drop_bytes_total", ("EGRESS", "Stale or unroutable IP")] == 60
            assert found["cilium_forward_count_total", ("EGRESS",)] == 9
            assert found["kilim_audit_count_total", ("INGRESS",)] == 4
            assert found["kilim_audit_bytes_total", ("INGRESS",)] == 240
            assert not any("udit" in reason for name, labels in found if "drop" in name for reason in labels)
            assert found["kilim_records_lost_total", ()] == 3
            assert found["cilium_process_open_fds", ()] > 0

            (tables,) = made
            tables.rows.ipcache[(1, 32)] = (9, 9)
            del tables.rows.subjects[next(iter(tables.rows.subjects))]
            await r.cluster.ChangeSetting(
                api.ChangeSettingRequest(name="read-back-interval-s", value="1", actor="test"), timeout=5
            )
            async with asyncio.timeout(20):
                while (found := await scrape(port))["kilim_table_drift_repairs_total", ("ipcache",)] == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert found["kilim_table_drift_repairs_total", ("subjects",)] == 1
            assert found["kilim_table_drift_repairs_total", ("policy",)] == 0
            assert found["kilim_read_back_period_seconds", ()] == 1
            status = await r.until(lambda status: status.nodes[0].drift_repairs == 2)
            assert status.nodes[0].name == "node1"
        finally:
            stop.set()
            await serving


async def test_an_address_that_cannot_be_had_stops_the_agent(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = Settings(
            "node1", "192.0.2.1", ("127.0.0.1:1",), state_dir=tmp_path, run_dir=tmp_path, datapath_mode="memory",
            prometheus_serve_addr=address,
        )  # fmt: skip
        with pytest.raises(ValueError, match=f"prometheus-serve-addr: cannot listen on {address}"):
            await serve(settings, asyncio.Event())
