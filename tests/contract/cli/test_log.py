"""`kilim log show` against a real replica: parts of the log by number, time and object, and what events changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.cli.world import kilim, shop
from tests.contract.controlplane.harness import namespace, replica

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def shown(address: str, *arguments: str) -> list[dict[str, Any]]:
    status, stdout, stderr = await kilim("log", "show", "-o", "json", "--server", address, *arguments)
    assert (status, stderr) == (0, "")
    return [json.loads(line) for line in stdout.splitlines()]


async def test_every_part_of_the_log_can_be_shown(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        entries = await shown(r.address)
        assert [each["seq"] for each in entries] == list(range(1, head + 1))
        assert entries[-1]["chain"] == (await r.status()).chain.hex()
        assert await shown(r.address, "--from", "4", "--to", "9") == entries[3:9]
        begin, end = entries[4]["time"], entries[8]["time"]
        wanted = [each for each in entries if begin <= each["time"] <= end]
        assert await shown(r.address, "--from", begin, "--to", end) == wanted
        assert await shown(r.address, "--since", begin) == [each for each in entries if begin <= each["time"]]
        assert await shown(r.address, "--since", "1h") == entries
        assert await shown(r.address, "--from", str(head), "--to", "99") == entries[-1:]
        assert await shown(r.address, "--from", "2199-01-01T00:00:00Z") == []


async def test_what_an_event_changed_is_shown(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        by_seq = {each["seq"]: each["changes"] for each in await shown(r.address, "--from", "12")}
        assert by_seq[12] == [{"field": "spec.ingress[0].ports[0].port", "old": 5432, "new": 5433}]
        assert {"field": "ip", "old": "10.244.1.3", "new": None} in by_seq[head]
        wide = (await kilim("log", "show", "--from", "12", "--to", "12", "-o", "wide", "--server", r.address))[1]
        assert wide.splitlines()[-1] == "          spec.ingress[0].ports[0].port: 5432 -> 5433"
        assert wide.splitlines()[1].endswith("(cause: NetworkPolicy shop/db)")


async def test_an_object_has_a_life_of_its_own(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        lives = {
            "shop/cache": ["IdentityAllocated", "EndpointAdded", "EndpointRemoved"],
            "ep/shop/cache": ["IdentityAllocated", "EndpointAdded", "EndpointRemoved"],
            "netpol/shop/db": ["PolicyReplaced", "PolicyReplaced"],
            "shop": ["NamespaceLabelled"],
            "node/node2": ["NodeJoined"],
            "id/257": ["IdentityAllocated"],
        }
        for name, events in lives.items():
            assert [each["event"] for each in await shown(r.address, "--object", name)] == events, name
        nobody = await kilim("log", "show", "--object", "pod/shop/nobody", "--from", "2", "--server", r.address)
        assert nobody == (1, "", f"error: --object: no event from 2 to {head} is about pod/shop/nobody\n")
        await r.apply(namespace("shop", team="b"))
        moved = {each["event"] for each in await shown(r.address, "--object", "ns/shop")}
        assert moved == {"NamespaceLabelled", "IdentityAllocated", "EndpointUpdated"}


async def test_bad_parts_are_refused_in_one_line(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        await shop(r)
        place = "must be an event's number or a time such as 2026-11-22T14:03:00Z"
        for arguments, message in (
            (["--from", "noon"], f'--from: "noon" {place}'),
            (["--to", "noon"], f'--to: "noon" {place}'),
            (["--from", "0"], "--from: must be at least 1"),
            (["--to", "0"], "--to: must be at least 1"),
            (["--from", "1", "--since", "1h"], "--since: goes without --from"),
            (["--object", "cheese/a/b"], '--object: unknown kind "cheese": must be one of '),
            (["--since", "soon"], '--since: "soon" must be a duration with its unit, such as 30m or 1h30m, or a time'),
            (["--since", "5"], '--since: "5" must be a duration with its unit, such as 30m or 1h30m, or a time'),
            (["--from", "2020-01-01T00:00:00Z", "--to", "2019-01-01T00:00:00Z"], "--to: must be at least --from"),
        ):
            status, stdout, stderr = await kilim("log", "show", "--server", r.address, *arguments)
            assert (status, stdout, stderr.count("\n")) == (2, "", 1), arguments
            assert stderr.startswith(f"error: {message}"), stderr


async def test_a_place_beyond_the_end_is_named_with_its_option(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        parties = ["--from", "shop/web", "--to", "shop/db", "--port", "5433"]
        for arguments, option in (
            (["log", "show", "--from", "99"], "--from"),
            (["log", "tail", "--from", "99"], "--from"),
            (["replay", "--node", "node2", "--to", "99"], "--to"),
            (["replay", "--node", "node2", "--diff", "99"], "--diff"),
            (["why", *parties, "--at", "99"], "--at"),
        ):
            status, stdout, stderr = await kilim(*arguments, "--server", r.address)
            wanted = f"error: {option}: event 99 has not happened: the log ends at event {head}\n"
            assert (status, stdout, stderr) == (1, "", wanted), arguments
        for arguments, option in (
            (["replay", "--node", "node2", "--to", "0"], "--to"),
            (["why", *parties, "--at", "0"], "--at"),
        ):
            status, stdout, stderr = await kilim(*arguments, "--server", r.address)
            assert (status, stdout, stderr) == (2, "", f"error: {option}: must be at least 1, the first event\n")


async def test_tail_says_what_changed_as_show_does(etcd: EmbeddedEtcd, cluster: str) -> None:
    async with replica(etcd.endpoints, cluster) as r:
        head = await shop(r)
        for form in ("json", "yaml"):
            tail = await kilim("log", "tail", "-n", "4", "-o", form, "--server", r.address)
            assert tail == await kilim("log", "show", "--from", str(head - 3), "-o", form, "--server", r.address)
        assert "5432" in (await kilim("log", "tail", "-n", "4", "-o", "wide", "--server", r.address))[1]
        whole = await kilim("log", "tail", "-n", "999", "-o", "json", "--server", r.address)
        assert len(whole[1].splitlines()) == head and '"changes": null' not in whole[1]
