"""What was right once and is not known now is not called equal, in status and in metrics; `status --wait` waits."""

from __future__ import annotations

import asyncio
import threading

import pytest
from click.testing import CliRunner, Result

from kilim.cli.status import status as status_command
from kilim.controlplane import reports
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.v1 import controlplane_pb2 as api
from tests.contract.controlplane.harness import Running, policy, replica
from tests.contract.controlplane.test_digests import Agent, agent, fill, of
from tests.contract.controlplane.test_metrics import free_address, until
from tests.contract.controlplane.test_metrics import of as series

pytestmark = pytest.mark.asyncio(loop_scope="session")
ALL = {"state", "tables", "kernel"}


def verdicts(status: api.StatusResponse) -> set[int]:
    node = of(status, "node1")
    return {node.state_comparison, node.table_comparison, node.kernel_comparison}


async def shown_as_one(address: str, what: set[str]) -> None:
    """Until the metric has series of just these digests, with 1."""
    every = {each: series("kilim_digest_match", peer="node/node1", what=each) for each in ALL}
    await until(address, lambda seen: {each for each in ALL if seen.get(every[each]) == 1} == what)


async def well(r: Running, one: Agent) -> int:
    """All three digests of node1 are compared and equal."""
    head = await fill(r, nodes=1)
    await one.report(head)
    status = await r.until(lambda status: of(status, "node1").table_comparison == api.MATCH)
    await read_back(one, head, of(status, "node1").table_digest, readings=1)
    await r.until(lambda status: verdicts(status) == {api.MATCH})
    return head


async def read_back(one: Agent, head: int, digest: bytes, readings: int) -> None:
    await one.report(head, kernel_seq=head, kernel_digest=digest, kernel_readings=readings)


async def test_a_kernel_last_read_long_ago(etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = free_address()
    async with replica(etcd.endpoints, cluster, prometheus_serve_addr=address) as r, agent(r, "node1") as one:
        head = await well(r, one)
        await shown_as_one(address, ALL)
        digest = of(await r.status(), "node1").table_digest
        with monkeypatch.context() as soon:
            soon.setattr(reports, "READINGS_MISSED", 0)
            soon.setattr(reports, "KERNEL_STALE_S", 0.0)
            await read_back(one, head, digest, readings=1)  # the same reading, reported again
            status = await r.until(lambda status: of(status, "node1").kernel_comparison == api.STALE)
            node = of(status, "node1")
            assert (node.state_comparison, node.table_comparison) == (api.MATCH, api.MATCH)
            assert node.kernel_age_ms >= node.last_report_age_ms
            await shown_as_one(address, {"state", "tables"})
            await read_back(one, head, b"w" * 32, readings=2)  # a difference has no age
            await r.until(lambda status: of(status, "node1").kernel_comparison == api.DIFFERS)
        await read_back(one, head, digest, readings=3)
        await r.until(lambda status: verdicts(status) == {api.MATCH})
        await shown_as_one(address, ALL)


async def test_a_node_that_is_silent_and_then_down(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = free_address()
    async with replica(etcd.endpoints, cluster, prometheus_serve_addr=address) as r, agent(r, "node1") as one:
        head = await well(r, one)
        with monkeypatch.context() as soon:
            soon.setattr(reports, "SILENT_S", 0.0)
            status = await r.until(lambda status: of(status, "node1").silent)
            assert verdicts(status) == {api.STALE} and of(status, "node1").up and not status.ok
            await shown_as_one(address, set())
        status = await r.until(lambda status: verdicts(status) == {api.MATCH})
        assert not of(status, "node1").silent
        await one.report(head, state_digest=b"w" * 32)
        await r.until(lambda status: of(status, "node1").state_comparison == api.DIFFERS)
        one.call.cancel()
        status = await r.until(lambda status: not of(status, "node1").up)
        node = of(status, "node1")
        assert (node.silent, node.state_comparison, node.table_comparison) == (False, api.DIFFERS, api.STALE)


async def run_status(r: Running, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, status_command, ["--server", r.address, *arguments])


async def test_status_waits_for_nodes_that_are_behind(
    etcd: EmbeddedEtcd, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    async with replica(etcd.endpoints, cluster) as r, agent(r, "node1") as one:
        head = await well(r, one)
        assert (await run_status(r, "--wait")).exit_code == 0
        late = (await r.apply(policy("late"))).seq
        result = await run_status(r, "--wait", "--timeout", "1s")
        assert (await r.status()).ok and result.exit_code == 1
        words = f"seq {late} is not enforced everywhere: node node1 is at {head}: 1 event behind"
        assert words in result.stderr
        assert result.stdout.startswith("Kilim    ok")
        monkeypatch.setattr("kilim.cli.status.waiting_for", lambda text: _Noted(asked))
        waiting = asyncio.create_task(run_status(r, "--wait"))
        await asyncio.to_thread(asked.wait)
        await one.report(late)
        assert (await waiting).exit_code == 0


class _Noted:
    """In place of the progress line: that the waiting has begun."""

    def __init__(self, begun: threading.Event) -> None:
        self._begun = begun

    def __enter__(self) -> None:
        self._begun.set()

    def __exit__(self, *_: object) -> None:
        pass
