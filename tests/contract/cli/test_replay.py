"""`kilim replay` against a real replica: tables of the past by number and by time, differences and what made them."""

from __future__ import annotations

import json

import pytest

from kilim.cli.history.times import format_time
from kilim.kvstore.commit import decode_commit
from kilim.kvstore.embedded import EmbeddedEtcd
from kilim.model.desired import desired_tables
from kilim.model.fold import fold_record
from kilim.model.rows import COLUMNS, TABLES, cells, rows_of
from kilim.model.state import State
from kilim.v1 import controlplane_pb2 as api
from kilim.v1.events_pb2 import Event
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import Running, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def records_of(r: Running) -> list[bytes]:
    batches = [batch async for batch in r.log.ReadCommits(api.ReadCommitsRequest())]
    return [record for batch in batches for each in batch.commits for record in decode_commit(each).records]


async def test_every_event_gives_the_tables_that_the_definition_gives(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        state = State()
        for seq, record in enumerate(await records_of(r), 1):
            fold_record(state, seq, record)
            if seq < 2:
                continue
            arguments = ["--node", "node2", "--to", str(seq), "-o", "json", "--server", r.address]
            status, stdout, stderr = await kilim("replay", *arguments)
            assert (status, stderr) == (0, "")
            data, wanted = json.loads(stdout), desired_tables(state, "node2")
            assert (data["state_digest"], data["table_digest"]) == (state.digest.hex(), wanted.digest().hex())
            for table in TABLES:
                texts = [cells(table, key, value) for key, value in rows_of(wanted, table).items()]
                shown = [
                    ["-" if cell is None else str(cell) for cell in each.values()] for each in data["tables"][table]
                ]
                assert shown == texts
                assert all(list(each) == list(COLUMNS[table]) for each in data["tables"][table])
        assert state.seq == head
        whole = await kilim("replay", "--node", "node2", "--server", r.address)
        assert (await r.status()).chain.hex() in whole[1]


async def test_a_time_is_that_of_its_event(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        times = [Event.FromString(record).time_ns for record in await records_of(r)]
        seq = 9  # the end of a commit, whose events have one time
        arguments = ["replay", "--node", "node2", "--server", r.address, "--to"]
        assert await kilim(*arguments, format_time(times[seq - 1])) == await kilim(*arguments, str(seq))
        status, stdout, stderr = await kilim(*arguments, "1999-01-01T00:00:00Z")
        assert (status, stdout, stderr) == (1, "", "error: --to: 1999-01-01T00:00:00Z is before the first event\n")


async def test_a_difference_names_the_event_of_each_line(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        arguments = ["replay", "--node", "node2", "--server", r.address, "--diff"]
        forward = await kilim(*arguments, str(head), "--to", "9")
        assert forward == await kilim(*arguments, "9") and forward[0] == 0
        policies = forward[1].partition("\npolicy\n")[2].splitlines()
        assert [line.split()[:7] for line in policies[1:]] == [
            ["+", "257", "ingress", "1", "0", "0", "0"],
            ["+", "257", "ingress", "256", "6", "5433", "16"],  # the row for 5432 came and went in between
        ]
        assert "   12    " in policies[2] and policies[2].endswith(
            "test    PolicyReplaced NetworkPolicy shop/db (rules: 1 ingress)"
        )
        data = json.loads((await kilim(*arguments, "11", "--to", "12", "-o", "json"))[1])
        assert data["changes"][1]["new"] == {
            "subject": 257, "direction": "ingress", "peer": 256, "protocol": 6, "port": 5433, "port_prefix_len": 16,
            "verdict": "allow",
        }  # fmt: skip
        assert [(each["change"], each["event"]["seq"]) for each in data["changes"]] == [("removed", 12), ("added", 12)]
        same = await kilim(*arguments, "9", "--to", "9")
        assert same[1].endswith("\nNo row differs.\n")


async def test_wide_says_which_event_made_each_row(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        arguments = ["replay", "--node", "node2", "-o", "wide", "--server", r.address]
        rows = (await kilim(*arguments, "--table", "subjects"))[1].splitlines()
        assert rows[-1].startswith("257        1       10    2")
        assert rows[-1].endswith("test    PolicyReplaced NetworkPolicy shop/closed (no rules)")


async def test_what_cannot_be_replayed_is_said_in_one_line(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        for arguments, status, message in (
            (["--node", "node3"], 1, f'no node "node3" as of event {head}; there is node1, node2'),
            (["--node", "node2", "--to", "99"], 1, f"--to: event 99 has not happened: the log ends at event {head}"),
            (
                ["--node", "node2", "--diff", "99"],
                1,
                f"--diff: event 99 has not happened: the log ends at event {head}",
            ),
            (
                ["--node", "node2", "--to", "noon"],
                2,
                '--to: "noon" must be an event\'s number or a time such as 2026-11-22T14:03:00Z',
            ),
        ):
            assert await kilim("replay", "--server", r.address, *arguments) == (status, "", f"error: {message}\n")
