"""What somebody else changes in the maps is found, named, counted and repaired; a reading is of one moment, whatever is
written while it goes on."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from kilim.agent.bpf import rows
from kilim.agent.bpf.maps import Map, Maps
from kilim.agent.bpf.tables import KernelTables
from kilim.agent.cache import DiskCache
from kilim.agent.enforcement import Enforcement
from kilim.agent.inbox import Inbox
from kilim.agent.read_back import ReadBack
from kilim.agent.replica import Replica
from kilim.agent.table_answers import table_parts
from kilim.kvstore.commit import encode_commit
from kilim.model.address import mapped
from kilim.model.nouns import Policy, policy_to_pb
from kilim.model.tables import ALLOW, ROW_BYTES, Tables, TablesDelta, unpack_rows
from kilim.v1 import controlplane_pb2 as api
from kilim.v1 import events_pb2 as pb
from tests.kernel.rig import INGRESS, LO, Rig, row
from tests.pure.agent.commits import NODE, endpoint_added, endpoint_removed, identity_allocated, log_of, node_joined

POD = 0x0A010001  # 10.1.0.1, the only one on this node
ALLOW_80 = (
    '{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"web","namespace":"default"},'
    '"spec":{"ingress":[{"from":[{"podSelector":{}}],"ports":[{"port":80,"protocol":"TCP"}]}],"podSelector":{}}}'
)


def web_policy(port: int = 80) -> bytes:
    policy = Policy("NetworkPolicy", "default", "web", ALLOW_80.replace("80", str(port)))
    return pb.Event(policy_replaced=pb.PolicyReplaced(policy=policy_to_pb(policy))).SerializeToString()


class Node:
    """An agent's enforcement over a kernel, without a control plane."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self.maps: Maps = rig.datapath.maps
        self.tables = rig.tables
        replica = Replica(NODE)
        for commit in log_of(
            [node_joined(NODE, 0x0A000001), node_joined("node2", 0x0A000002)],
            [identity_allocated(300), identity_allocated(301), web_policy()],
            [endpoint_added("here", POD), endpoint_added("there", 0x0A010002, "node2", 301)],
        ):
            replica.apply_commit(commit)
        self.reports: list[api.NodeReport] = []
        self.enforcement = Enforcement(
            replica, Inbox(), DiskCache(directory), rig.tables, {POD: LO}, self.reports.append, lambda: None
        )
        self.enforcement.in_sync = True
        self.enforcement.repair()
        self.enforcement.drift_repairs.clear()  # what the rig had written
        self.read_back = ReadBack(self.enforcement, rig.tables)

    def row(self, table: str, **wanted: int) -> tuple[Map, Any, Any]:
        """The one entry whose key has these fields."""
        each = self.maps[table]
        keys, values = each.read()
        (number,) = [
            n for n in range(len(keys)) if all(keys[n][field] == raw(field, wanted[field]) for field in wanted)
        ]
        return each, keys[number : number + 1].copy(), values[number : number + 1].copy()


@pytest.fixture
def node(rig: Rig, tmp_path: Path) -> Iterator[Node]:
    made = Node(rig, tmp_path)
    yield made


def raw(field: str, value: int) -> Any:
    """As the kernel's entry has it."""
    return np.void(mapped(value)) if field == "ip" else value


def set_value(table: str, field: str, value: int, **key: int) -> Callable[[Node], None]:
    def change(node: Node) -> None:
        each, keys, values = node.row(table, **key)
        values[field] = value
        each.update(keys, values)

    return change


def add(table: str, new: dict[str, int], like: dict[str, int]) -> Callable[[Node], None]:
    def change(node: Node) -> None:
        each, keys, values = node.row(table, **like)
        for field, value in new.items():
            keys[field] = raw(field, value)
        each.update(keys, values)

    return change


def replace(table: str, new: dict[str, int], like: dict[str, int]) -> Callable[[Node], None]:
    """The same bytes but for these fields of the key."""

    def change(node: Node) -> None:
        each, keys, values = node.row(table, **like)
        each.delete(keys)
        for field, value in new.items():
            keys[field] = raw(field, value)
        each.update(keys, values)

    return change


def remove(table: str, **key: int) -> Callable[[Node], None]:
    def change(node: Node) -> None:
        each, keys, _ = node.row(table, **key)
        each.delete(keys)

    return change


ANY_PROTOCOL = {"protocol": 0, "way": INGRESS}  # of the host
CHANGES = {
    "ipcache value": (
        set_value("ipcache", "identity", 999, ip=0x0A010002),
        ["ipcache 10.1.0.2/32: found 999 10.0.0.2, wanted 301 10.0.0.2"],
    ),
    "ipcache row gone": (remove("ipcache", ip=POD), ["ipcache 10.1.0.1/32: found nothing, wanted 300 -"]),
    "ipcache row added": (
        add("ipcache", {"ip": 0x01020304}, {"ip": POD}),
        ["ipcache 1.2.3.4/32: found 300 -, wanted nothing"],
    ),
    "endpoint gone": (remove("endpoints", ip=POD), ["endpoints 10.1.0.1: found nothing, wanted 1 300 -"]),
    "endpoint's identity": (
        set_value("endpoints", "identity", 5, ip=POD),
        ["endpoints 10.1.0.1: found 1 5 -, wanted 1 300 -"],
    ),
    "endpoint's interface": (
        set_value("endpoints", "ifindex", 77, ip=POD),
        ["endpoints 10.1.0.1: found ifindex 77, wanted ifindex 1"],
    ),
    "endpoint's MAC address": (
        set_value("endpoints", "mac", 9, ip=POD),
        ["endpoints 10.1.0.1: found other MAC addresses, wanted ifindex 1"],
    ),
    "endpoint in audit mode": (
        set_value("endpoints", "flags", 1, ip=POD),
        ["endpoints 10.1.0.1: found 1 300 audit, wanted 1 300 -"],
    ),
    "endpoint's flags": (
        set_value("endpoints", "flags", 0x101, ip=POD),
        ["endpoints 10.1.0.1: found 1 300 0xff, wanted 1 300 -"],
    ),
    "subject's flags": (set_value("subjects", "flags", 0x101, identity=300), ["subjects 300: found 257, wanted 1"]),
    "policy verdict": (
        set_value("policy", "value", 2, peer=301),
        ["policy 300 ingress 301 6 80 16: found deny, wanted allow"],
    ),
    "policy row gone": (
        remove("policy", peer=301),
        ["policy 300 ingress 301 6 80 16: found nothing, wanted allow"],
    ),
    "policy row added": (
        add("policy", {"peer": 302}, {"peer": 301}),
        ["policy 300 ingress 302 6 80 16: found allow, wanted nothing"],
    ),
    "policy row's protocol": (
        replace("policy", {"protocol": 17}, {"peer": 301}),
        [
            "policy 300 ingress 301 6 80 16: found nothing, wanted allow",
            "policy 300 ingress 301 17 80 16: found allow, wanted nothing",
        ],
    ),
    "policy verdict that is none": (
        set_value("policy", "value", 3, peer=301),
        ["policy 300 ingress 301 6 80 16: found 3, wanted allow"],
    ),
    "policy row for ports beside its own": (
        replace("policy", {"port": 81, "prefix_len": 112 + 15}, {"peer": 301}),
        [
            "policy 300 ingress 301 6 80 16: found nothing, wanted allow",
            "policy 300 ingress 301 6 81 15: found allow, wanted nothing",
        ],
    ),
    "ipcache row with host bits": (
        add("ipcache", {"ip": 0x01020304, "prefix_len": 32 + 96 + 24}, {"ip": POD}),
        ["ipcache 1.2.3.4/24: found 300 -, wanted nothing"],
    ),
    **{
        f"policy row for all that shares {bits} bits": (
            replace("policy", {"prefix_len": bits}, ANY_PROTOCOL),
            [
                "policy 300 ingress 1 0 0 0: found nothing, wanted allow",
                f"policy 300 ingress 1 0 0 key/{bits}: found allow, wanted nothing",
            ],
        )
        for bits in (0, 31, 64, 96, 103, 105, 112, 120, 128)
    },
    **{
        f"policy row for all that shares {bits} bits, beside the true one": (
            add("policy", {"prefix_len": bits}, ANY_PROTOCOL),
            [f"policy 300 ingress 1 0 0 key/{bits}: found allow, wanted nothing"],
        )
        for bits in (0, 64, 112)
    },
    "policy row of nobody's table that applies to everybody": (
        add("policy", {"prefix_len": 0, "table": 9999, "subject": 9999}, ANY_PROTOCOL),
        ["policy 9999 ingress 1 0 0 key/0: found allow, wanted nothing"],
    ),
    "policy row of one protocol that does not look at it": (
        replace("policy", {"prefix_len": 104}, {"peer": 301}),
        [
            "policy 300 ingress 301 6 80 16: found nothing, wanted allow",
            "policy 300 ingress 301 6 80 key/104: found allow, wanted nothing",
        ],
    ),
    "policy row of any protocol that looks at it": (
        replace("policy", {"prefix_len": 104, "protocol": 6}, ANY_PROTOCOL),
        [
            "policy 300 ingress 1 0 0 0: found nothing, wanted allow",
            "policy 300 ingress 1 6 0 key/104: found allow, wanted nothing",
        ],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_by_hand_is_named_counted_and_repaired(node: Node, what: str) -> None:
    change, named = CHANGES[what]
    before = node.tables.read_rows()
    assert (await node.read_back.read()).is_clean
    change(node)
    with structlog.testing.capture_logs() as logs:
        await node.read_back._check()
    (line,) = [entry for entry in logs if "first" in entry]
    assert (sorted(line["first"]), line["rows"]) == (sorted(named), len(named))
    assert dict(node.enforcement.drift_repairs) == {named[0].split()[0]: len(named)}
    told, mended = [report for report in node.reports if report.kernel_seq][-3::2]
    assert mended.kernel_digest == mended.table_digest and mended.drift_repairs == len(named)
    if "ifindex" not in named[0]:  # not in the digest
        assert told.kernel_digest != told.table_digest
    assert node.tables.read_rows() == before
    assert (await node.read_back.read()).is_clean


async def test_a_subject_that_points_at_other_rows_points_at_its_own_again(node: Node) -> None:
    _, _, before = node.row("subjects", identity=300)
    set_value("subjects", "table", 12345, identity=300)(node)
    await node.read_back._check()
    _, _, after = node.row("subjects", identity=300)
    assert after.tolist() == before.tolist()
    assert dict(node.enforcement.drift_repairs) == {"subjects": 1}
    assert (await node.read_back.read()).is_clean


def test_an_address_with_host_bits_in_place_of_a_prefix_gives_way_to_it(node: Node) -> None:
    node.tables.write(TablesDelta(ipcache={(0x0A090800, 24): (16777217, 0)}), 8, {})
    before = node.tables.read_rows()
    replace("ipcache", {"ip": 0x0A090807}, {"ip": 0x0A090800})(node)
    held = node.tables.read_rows()
    assert held.ipcache.keys() - before.ipcache.keys() == {(0x0A090807, 24)}
    node.tables.write(TablesDelta.between(held, before), 9, {})
    assert node.tables.read_rows() == before == KernelTables(node.maps).read_rows()


@pytest.mark.parametrize("key", [{"prefix_len": 64}, {"prefix_len": 104, "protocol": 6}])
def test_what_no_agent_writes_is_removed_at_the_start_and_takes_nothing_with_it(
    node: Node, key: dict[str, int]
) -> None:
    before = node.tables.read_rows()
    replace("policy", key, ANY_PROTOCOL)(node)
    tables = KernelTables(node.maps)
    assert not any(rows.foreign_policy(node.maps["policy"].read()[0]))
    tables.write(TablesDelta.between(tables.read_rows(), before), 8, {POD: LO})
    tables.sweep()
    assert KernelTables(node.maps).read_rows() == before


async def test_what_is_wrong_beyond_rows_and_what_waits_is_answered(node: Node) -> None:
    set_value("endpoints", "ifindex", 77, ip=POD)(node)
    _, _, subject = node.row("subjects", identity=300)
    number, revision = int(subject["table"][0]), int(subject["revision"][0])
    set_value("subjects", "revision", revision + 5, identity=300)(node)
    replica = node.enforcement.replica
    late = encode_commit(replica.seq + 1, replica.chain, [endpoint_added("late", POD + 16)])
    await node.enforcement._follow([late])
    *_, last = table_parts(await node.read_back.read())
    assert list(last.local_drift) == [
        "endpoints 10.1.0.1: found ifindex 77, wanted ifindex 1",
        f"subjects 300: found table {number} revision {revision + 5}, wanted table {number} revision {revision}",
    ]
    assert list(last.held_endpoints) == [mapped(POD + 16)] and last.last


async def test_a_kernel_that_is_right_costs_no_repair(node: Node) -> None:
    await node.read_back._check()
    await node.read_back._check()
    assert not node.enforcement.drift_repairs
    assert node.reports[-1].kernel_digest == node.reports[-1].table_digest
    assert node.reports[-1].kernel_seq == node.enforcement.replica.seq == 7


async def test_an_endpoint_that_waits_for_its_interface_is_no_drift(node: Node) -> None:
    late = endpoint_added("late", POD + 16)
    replica = node.enforcement.replica
    commit = encode_commit(replica.seq + 1, replica.chain, [late])
    await node.enforcement._follow([commit])
    assert node.tables.held_endpoints == {POD + 16}
    await node.read_back._check()
    assert not node.enforcement.drift_repairs
    assert node.reports[-1].kernel_digest == node.reports[-1].table_digest
    assert len((await node.read_back.read()).rows["endpoints"]) == ROW_BYTES["endpoints"]  # it is not there, after all


async def test_nothing_that_the_agent_writes_itself_is_taken_for_drift(node: Node) -> None:
    chance, enforcement = random.Random(5), node.enforcement
    node.tables.write(TablesDelta(ipcache={(0x0B000000 + n, 32): (n, 0) for n in range(20_000)}), 8, {})
    enforcement.repair()
    enforcement.drift_repairs.clear()
    seen = []

    async def look() -> None:
        while True:
            seen.append(await node.read_back.read())

    looking = asyncio.create_task(look())
    while len(seen) < 20:
        for _ in range(chance.randrange(6)):
            port, number = chance.randrange(80, 90), chance.randrange(50)
            records = [web_policy(port), endpoint_added(f"p{number}", 0x0A010100 + number, "node2", 301)]
            records += [endpoint_removed(f"p{chance.randrange(50)}")]
            await enforcement._follow([encode_commit(enforcement.replica.seq + 1, enforcement.replica.chain, records)])
            node.tables.sweep()
        await asyncio.sleep(0)
    looking.cancel()
    await asyncio.gather(looking, node.read_back.close(), return_exceptions=True)
    assert all(moment.is_clean and moment.digest == moment.table_digest for moment in seen)
    assert len({moment.seq for moment in seen}) > 3


@pytest.mark.parametrize("seed", range(6))
def test_a_reading_is_of_one_moment_though_rows_are_written_meanwhile(rig: Rig, seed: int) -> None:
    chance = random.Random(seed)
    rig.write(TablesDelta(ipcache={(0x0B000000 + n, 32): (n, 0) for n in range(30_000)}))
    for attempt in range(3):
        reading = rig.tables.start_reading()
        thread = threading.Thread(target=reading.read)
        thread.start()
        for number in range(40):
            some = [chance.randrange(31_000) for _ in range(40)]
            rig.write(
                TablesDelta(
                    ipcache={(0x0B000000 + n, 32): None if chance.random() < 0.5 else (number, 1) for n in some},
                    subjects={40_000: 1},
                    policy={40_000: {row(INGRESS, n, 6, 80, 16): ALLOW for n in some[: chance.randrange(1, 20)]}},
                )
            )
        thread.join()
        assert reading.settle(anyway=True)
        packed = reading.rows()
        found = Tables()
        for table, data in packed.items():
            unpack_rows(table, data, found)
        assert found == rig.tables.read_rows(), attempt


def test_a_reading_that_missed_too_much_is_not_used(rig: Rig) -> None:
    reading = rig.tables.start_reading()
    reading.read()
    rig.write(TablesDelta(ipcache={(0x0B000000 + n, 32): (n, 0) for n in range(20_000)}))
    assert not reading.settle()
