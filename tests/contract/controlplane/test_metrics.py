"""What a scrape of a replica gives: valid OpenMetrics, the values of status, and nothing of those who have left."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterable

import grpc
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import PATIENCE_S, replica
from tests.contract.controlplane.test_digests import agent, fill

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
parse: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_address() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{bound.getsockname()[1]}"


async def scrape(address: str, accept: str = OPENMETRICS) -> str:
    def get() -> str:
        request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  # an address of ours
            assert accept != OPENMETRICS or answer.headers["Content-Type"].startswith("application/openmetrics-text")
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


def values(text: str) -> Values:
    samples: list[Sample] = [sample for family in parse(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


async def until(address: str, holds: Callable[[Values], bool]) -> Values:
    async with asyncio.timeout(PATIENCE_S):
        while not holds(seen := values(await scrape(address))):  # noqa: ASYNC110  # it can only be asked for
            await asyncio.sleep(0.02)
    return seen


def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


async def test_a_scrape_says_what_status_says(etcd: EmbeddedEtcd, cluster: str) -> None:
    address = free_address()
    async with replica(etcd.endpoints, cluster, prometheus_serve_addr=address) as r, agent(r, "node1") as one:
        head = await fill(r)
        with pytest.raises(grpc.aio.AioRpcError):
            await r.register_endpoint("nowhere", "p", "10.1.1.1", 1)
        await one.report(head)
        match = of("kilim_digest_match", peer="node/node1", what="tables")
        seen = await until(address, lambda seen: seen.get(match) == 1)
        assert seen[of("kilim_digest_match", peer="node/node1", what="state")] == 1
        assert seen[of("kilim_digest_match", peer="replica/r1", what="state")] == 1
        assert of("kilim_digest_match", peer="node/node1", what="kernel") not in seen
        assert of("kilim_digest_match", peer="node/node2", what="state") not in seen
        assert (seen[of("kilim_log_seq")], seen[of("kilim_log_first_seq")]) == (head, 1)
        assert seen[of("kilim_append_events_total")] == head
        assert seen[of("kilim_append_seconds_count")] <= head
        assert seen[of("kilim_commands_total", outcome="done")] == 9
        assert seen[of("kilim_commands_total", outcome="refused")] == 1
        assert seen[of("kilim_node_lag_events", node="node1")] == 0 == seen[of("kilim_node_lag_seconds", node="node1")]
        assert seen[of("kilim_node_lag_events", node="node2")] == head
        assert (seen[of("kilim_nodes_all_num")], seen[of("kilim_endpoint")], seen[of("kilim_policy")]) == (2, 6, 2)
        assert seen[of("kilim_identity", type="cidr")] == 1
        await until(address, lambda seen: seen[of("kilim_etcd_db_size_bytes")] > 0)
        await one.report(head, table_digest=b"w" * 32)
        await until(address, lambda seen: seen.get(match) == 0)


async def test_those_who_left_have_no_series(etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilim.controlplane.agreement.LOOK_EVERY_S", 0.05)
    address = free_address()
    other = of("kilim_digest_match", peer="replica/r2", what="state")
    async with replica(etcd.endpoints, cluster, prometheus_serve_addr=address) as r:
        async with replica(etcd.endpoints, cluster, "r2"), agent(r, "node1") as one:
            await one.report(await fill(r))
            await until(address, lambda seen: seen.get(other) == 1 and any("node1" in str(key) for key in seen))
        refs = [api.ResourceRef(kind="Node", name="node1"), api.ResourceRef(kind="Node", name="node2")]
        await r.resources.Delete(api.DeleteRequest(refs=refs, actor="test"), timeout=PATIENCE_S)
        await until(address, lambda seen: other not in seen and not any("node1" in str(key) for key in seen))


async def test_subscribers_are_counted(etcd: EmbeddedEtcd, cluster: str) -> None:
    address = free_address()
    async with replica(etcd.endpoints, cluster, prometheus_serve_addr=address) as r:
        call = r.nodes.Subscribe(api.SubscribeRequest(node="t"))
        await until(address, lambda seen: seen[of("kilim_subscribers")] == 1)
        call.cancel()
        await until(address, lambda seen: seen[of("kilim_subscribers")] == 0)


async def test_promtool_finds_nothing_to_say(etcd: EmbeddedEtcd, cluster: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing (Debian package prometheus)")
    address = free_address()
    async with replica(etcd.endpoints, cluster, prometheus_serve_addr=address) as r, agent(r, "node1") as one:
        await one.report(await fill(r))
        text = await scrape(address, accept="text/plain")
    command = [promtool, "check", "metrics"]
    check = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


async def test_an_address_that_is_taken_is_said(
    etcd: EmbeddedEtcd, cluster: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        from kilim.controlplane.runtime import Settings, serve

        settings = Settings(
            name="r1", etcd_endpoints=tuple(etcd.endpoints), cluster=cluster, prometheus_serve_addr=address
        )
        assert await serve(settings, asyncio.Event()) == 1
    assert f"prometheus-serve-addr: cannot listen on {address}" in "".join(capfd.readouterr())
