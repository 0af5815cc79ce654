"""`kilim verify` over real agents (rows in memory), a replica and etcd: what differs is named, and nothing else."""

import json
from pathlib import Path

import pytest

from kilim.agent import memory_tables, table_answers
from kilim.agent.memory_tables import MemoryTables
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.address import parse_ip
from kilim.model.tables import PolicyKey
from kilim.v1 import controlplane_pb2 as api
from tests.contract.agent.test_memory import agents, all_enforce
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import replica

WEB, DB = parse_ip("10.244.0.2"), parse_ip("10.244.1.2")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[MemoryTables]:
    """Those of the agents, in the order of their start."""
    made: list[MemoryTables] = []

    class Kept(MemoryTables):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(memory_tables, "MemoryTables", Kept)
    return made


async def test_each_row_that_differs_is_named(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path, kernels: list[MemoryTables]
) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        async with agents(r.address, tmp_path, "node1", "node2"):
            await r.until(lambda status: all(node.up and node.seq >= head for node in status.nodes))
            await r.cluster.ChangeSetting(
                api.ChangeSettingRequest(name="read-back-interval-s", value="3600", actor="test"), timeout=5
            )
            await all_enforce(r, head + 1)
            status, out, _ = await kilim("verify", "--server", r.address)
            assert status == 0
            assert [line.split()[::4] for line in out.splitlines()[1:]] == [["node1", "ok"], ["node2", "ok"]]

            (db,) = (each for each in kernels if DB in each.rows.endpoints)
            (subject,) = (number for number, rows in db.rows.policy.items() if any(key.port for key in rows))
            (key,) = (each for each in db.rows.policy[subject] if each.port == 5433)
            del db.rows.policy[subject][key]
            db.rows.policy[subject][key._replace(port=5432)] = 1
            db.rows.ipcache[(WEB, 32)] = (777, 0)
            del db.rows.endpoints[DB]
            db.rows.subjects[99999] = 3
            status, out, _ = await kilim("verify", "--server", r.address, "-o", "json")
            assert status == 1
            answer = json.loads(out)
            first, second = answer["nodes"]
            assert (answer["ok"], first["ok"], second["ok"], second["seq"]) == (False, True, False, head + 1)
            assert second["agent_digest"] == second["log_digest"] != second["kernel_digest"]
            found = {(each["table"], each["key"]): each for each in second["differences"]}
            identity = found[("ipcache", "10.244.0.2/32")]["log"].split()[0]
            assert {key: (each["kernel"], each["log"]) for key, each in found.items()} == {
                ("ipcache", "10.244.0.2/32"): ("777 -", f"{identity} 192.0.2.1"),
                ("endpoints", "10.244.1.2"): (None, f"1 {subject} -"),
                ("subjects", "99999"): ("3", None),
                ("policy", f"{subject} ingress {identity} 6 5432 16"): ("allow", None),
                ("policy", f"{subject} ingress {identity} 6 5433 16"): (None, "allow"),
            }
            since = {key: each["since"] and each["since"]["event"] for key, each in found.items()}
            assert since[("endpoints", "10.244.1.2")] == "EndpointAdded"
            assert since[("subjects", "99999")] is None
            assert found[("policy", f"{subject} ingress {identity} 6 5433 16")]["since"]["actor"] == "test"
            assert PolicyKey(0, int(identity), 6, 5433, 16) == key

            status, out, _ = await kilim("verify", "--server", r.address)
            assert status == 1 and "5 rows differ" in out and "99999" in out and "never" in out
            assert (await kilim("verify", "--server", r.address, "--node", "node1"))[0] == 0


async def test_nodes_that_are_down_are_named(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        assert (await kilim("verify", "--server", r.address))[:2] == (0, "No nodes.\n")
        head = await shop(r)
        assert (await kilim("verify", "--server", r.address))[0] == 1  # nothing was compared
        async with agents(r.address, tmp_path, "node1"):
            await r.until(lambda status: any(node.up and node.seq >= head for node in status.nodes))
            status, out, _ = await kilim("verify", "--server", r.address)
            assert status == 0 and "down: not compared" in out
            assert (await kilim("verify", "--server", r.address, "--node", "node2"))[0] == 1
            status, _, error = await kilim("verify", "--server", r.address, "--node", "node7")
            assert (status, error) == (1, 'error: no node "node7"; there is node1, node2\n')


async def test_an_agent_that_wants_what_the_log_does_not_is_named(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilim.agent.replica.Replica.table_digest", property(lambda _: b"\7" * 32))
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        async with agents(r.address, tmp_path, "node1"):
            await r.until(lambda status: any(node.up and node.seq >= head for node in status.nodes))
            status, out, _ = await kilim("verify", "--server", r.address, "--node", "node1")
            assert status == 1 and "the agent wants other rows than the log: its table digest is 0707" in out


async def test_rows_in_another_format_are_not_guessed_at(
    etcd: EmbeddedEtcd, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_answers, "ROW_FORMAT", 99)
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        async with agents(r.address, tmp_path, "node1"):
            await r.until(lambda status: any(node.up for node in status.nodes))
            status, out, _ = await kilim("verify", "--server", r.address)
            assert status == 1
            assert "its agent is of another version: it packs rows in format 99, this kilim reads 2" in out
