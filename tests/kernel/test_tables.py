"""The driver: what it writes, in which way, and that a process without memory finds it again (I7)."""

import random
from pathlib import Path

import numpy as np
import pytest

from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.agent.bpf.maps import MapFull
from kilim.agent.bpf.rows import endpoint_keys
from kilim.agent.bpf.tables import KernelTables
from kilim.agent.core.dump import dump_desired
from kilim.model.tables import (
    ADMIN,
    ALLOW,
    DENY,
    TIERS,
    EndpointValue,
    PolicyKey,
    PolicyRows,
    RowChanges,
    TablesDelta,
    row_value,
    tier_flag,
)
from kilim.model.verdict import ALLOWED, judge_rows
from tests.kernel.frames import ACK, ICMP, NODE, TCP, UDP, WORLD, A, B, icmp, tcp
from tests.kernel.rig import EGRESS, INGRESS, LO, Rig, row


def subject_row(rig: Rig, identity: int) -> tuple[int, int, int]:
    """(table, revision, flags)"""
    keys, values = rig.datapath.maps["subjects"].read()
    [(table, revision, flags)] = values[keys["identity"] == identity].tolist()
    return table, revision, flags


def policy_tables(rig: Rig, subject: int) -> dict[int, int]:
    """Rows by table generation."""
    keys, _ = rig.datapath.maps["policy"].read()
    tables, counts = np.unique(keys["table"][keys["subject"] == subject], return_counts=True)
    return dict(zip(tables.tolist(), counts.tolist(), strict=True))


def test_rows_come_back_as_they_were_given(rig: Rig) -> None:
    policy: PolicyRows = {
        row(INGRESS, 0): ALLOW,
        row(INGRESS, 7, TCP): DENY,
        row(EGRESS, 8, TCP, 80, 16): ALLOW,
        row(EGRESS, 8, UDP, 1024, 6): ALLOW,
    }
    rig.set_policy(A, policy)
    read = rig.tables.read_rows()
    assert read.policy == {A.identity: policy}
    assert read.subjects == {A.identity: 3, B.identity: 0}
    assert read.endpoints == {end.ip: EndpointValue(end.endpoint_id, end.identity) for end in (A, B)}


def test_new_peers_are_added_in_place_without_a_new_revision(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 7): ALLOW})
    before = subject_row(rig, A.identity)
    rig.set_policy(A, {row(INGRESS, 7): ALLOW, row(INGRESS, 8, TCP): ALLOW, row(INGRESS, 8, UDP): ALLOW})
    assert subject_row(rig, A.identity) == before
    assert policy_tables(rig, A.identity) == {before[0]: 3}


def test_a_new_peer_with_a_deny_row_raises_the_revision(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 0): ALLOW})
    table, revision, _ = subject_row(rig, A.identity)
    rig.set_policy(A, {row(INGRESS, 0): ALLOW, row(INGRESS, 8): DENY})
    assert subject_row(rig, A.identity)[0] == table
    assert subject_row(rig, A.identity)[1] > revision


def test_whole_peers_are_removed_in_place_with_a_new_revision(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 7): ALLOW, row(INGRESS, 8): ALLOW})
    table, revision, _ = subject_row(rig, A.identity)
    rig.set_policy(A, {row(INGRESS, 7): ALLOW})
    assert subject_row(rig, A.identity)[0] == table and subject_row(rig, A.identity)[1] > revision
    assert policy_tables(rig, A.identity) == {table: 1}


@pytest.mark.parametrize(
    ("new", "revised"),
    [
        ({row(INGRESS, 7, TCP): ALLOW}, True),
        ({row(INGRESS, 7, TCP): ALLOW, row(INGRESS, 7, UDP): DENY}, True),
        ({row(INGRESS, 7, TCP): ALLOW, row(INGRESS, 7, UDP): ALLOW, row(INGRESS, 7): ALLOW}, False),
        ({row(INGRESS, 7, TCP, 80, 16): DENY, row(INGRESS, 7): ALLOW}, True),
    ],
)
@pytest.mark.parametrize("by_row", [False, True])
def test_rows_of_a_peer_change_in_place(rig: Rig, new: PolicyRows, revised: bool, by_row: bool) -> None:
    """Whether the delta has all rows of the subject or those that differ."""
    old = {row(INGRESS, 7, TCP): ALLOW, row(INGRESS, 7, UDP): ALLOW}
    rig.set_policy(A, old)
    table, revision, _ = subject_row(rig, A.identity)
    changes: RowChanges = {**new, **dict.fromkeys(old.keys() - new.keys())}
    rig.write(TablesDelta(rows={A.identity: changes}) if by_row else TablesDelta(policy={A.identity: new}))
    assert subject_row(rig, A.identity)[0] == table
    assert (subject_row(rig, A.identity)[1] > revision) is revised
    assert policy_tables(rig, A.identity) == {table: len(new)}
    assert rig.tables.read_rows().policy == {A.identity: new}


@pytest.mark.parametrize(
    "new",
    [
        {row(INGRESS, 0, TCP): ALLOW},  # a peer goes as any-peer comes
        {row(INGRESS, 7, TCP): ALLOW, row(INGRESS, 7)._replace(tier=ADMIN): row_value(ALLOW, 1)},  # in two tiers
    ],
)
def test_all_else_flips_to_a_new_table_and_sweeps_later(rig: Rig, new: PolicyRows) -> None:
    rig.set_policy(A, {row(INGRESS, 7, TCP): ALLOW, row(INGRESS, 7, UDP): ALLOW})
    old_table, revision, _ = subject_row(rig, A.identity)
    rig.set_policy(A, new)
    table, new_revision, _ = subject_row(rig, A.identity)
    assert table > old_table and new_revision > revision
    assert policy_tables(rig, A.identity) == {old_table: 2, table: len(new)}
    assert rig.tables.read_rows().policy == {A.identity: new}
    assert rig.tables.sweep(()) == 0
    assert rig.tables.sweep() == 2
    assert policy_tables(rig, A.identity) == {table: len(new)}
    assert rig.tables.sweep() == 0


def test_repeated_write_touches_nothing(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 7): ALLOW})
    before = subject_row(rig, A.identity)
    rig.set_policy(A, {row(INGRESS, 7): ALLOW})
    assert subject_row(rig, A.identity) == before


def test_generations_are_low_bits_of_seq_and_only_rise(rig: Rig) -> None:
    rig.tables.write(TablesDelta(subjects={A.identity: 1}), (5 << 32) + 70_000, {})
    assert subject_row(rig, A.identity)[1] == 70_000
    rig.tables.write(TablesDelta(subjects={A.identity: 2}), 3, {})
    assert subject_row(rig, A.identity)[1] == 70_001


def test_removal_of_an_endpoint_leaves_no_row(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 7): ALLOW})
    delta = TablesDelta({A.host: None}, {A.ip: None}, {A.identity: None}, {A.identity: None})
    rig.write(delta)
    rig.write(delta)
    rig.tables.sweep()
    read = rig.tables.read_rows()
    assert A.ip not in read.endpoints and A.identity not in read.subjects and A.host not in read.ipcache
    assert policy_tables(rig, A.identity) == {}
    assert not rig.tables.has_endpoint(A.ip)


def test_policy_emptied_under_a_subject_closes_it(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, A.identity, TCP): ALLOW, row(INGRESS, 0, UDP): ALLOW})
    assert rig.out(tcp(A, B)).passed
    rig.write(TablesDelta(policy={B.identity: None}))
    assert not rig.out(tcp(A, B)).passed
    assert rig.tables.read_rows().policy == {}


def test_before_in_sync_nothing_that_the_log_does_not_know_yet_goes(rig: Rig) -> None:
    rig.set_policy(A, {row(INGRESS, 7): ALLOW})
    before = rig.tables.read_rows()
    delta = TablesDelta({NODE.host: None, (1, 32): (300, 0)}, {A.ip: None}, {A.identity: None}, {A.identity: None})
    rig.tables.write(delta, 500, {}, allow_delete=False)
    after = rig.tables.read_rows()
    assert after.ipcache == before.ipcache | {(1, 32): (300, 0)}
    assert after.endpoints == before.endpoints and after.subjects == before.subjects
    assert after.policy == before.policy


def test_before_in_sync_the_policies_of_a_subject_are_not_mixed(rig: Rig) -> None:
    """Rows of two policies under the flags of one: the first denies with a row of a tier that then speaks no more."""
    denied = row_value(DENY, 1)
    rows = {PolicyKey(INGRESS, 0, 0, 0, 0, ADMIN): denied, row(INGRESS, A.identity, TCP, 80, 16): ALLOW}
    rig.set_policy(B, rows, tier_flag(ADMIN, INGRESS) | 1)
    assert not rig.out(tcp(A, B)).passed
    delta = TablesDelta(subjects={B.identity: 1}, policy={B.identity: None})
    rig.tables.write(delta, 500, {}, allow_delete=False)
    assert not rig.out(tcp(A, B)).passed
    assert rig.tables.read_rows().policy == {}


@pytest.mark.parametrize("seed", range(3))
def test_before_in_sync_a_subject_that_the_log_knows_is_as_it_says(rig: Rig, seed: int) -> None:
    """Old and new policy at random, of all tiers."""
    choice = random.Random(seed)
    for seq in range(500, 560):
        rows, flags = random_policy(choice), choice.randrange(64)
        rig.tables.write(
            TablesDelta(subjects={B.identity: flags}, policy={B.identity: rows}), seq, {}, allow_delete=False
        )
        read = rig.tables.read_rows()
        assert (read.subjects[B.identity], read.policy.get(B.identity, {})) == (flags, rows)
        expected = judge_rows(flags, rows, INGRESS, A.identity, ICMP, 13)
        assert rig.out(icmp(A, B, 13)).passed == (expected == ALLOWED)


def random_policy(choice: random.Random) -> PolicyRows:
    ports = (0, 0, 0), (ICMP, 0, 0), (ICMP, 13, 16)
    keys = [
        PolicyKey(INGRESS, choice.choice((0, A.identity)), *choice.choice(ports), choice.choice(TIERS))
        for _ in range(choice.randrange(6))
    ]
    return {key: row_value(choice.choice((ALLOW, DENY)), choice.randrange(3) if key.tier else 0) for key in keys}


def test_endpoint_waits_for_its_interface(rig: Rig) -> None:
    late = A.ip + 50
    rig.write(TablesDelta(endpoints={late: EndpointValue(50, A.identity)}))
    assert rig.tables.held_endpoints == {late} and not rig.tables.has_endpoint(late)
    rig.write(TablesDelta(), {late: LO})
    assert not rig.tables.held_endpoints and rig.tables.has_endpoint(late)
    rig.write(TablesDelta(), {late: 9})
    columns, rows = rig.tables.dump("endpoints", raw=True)
    [listed] = [dict(zip(columns, each, strict=True)) for each in rows if each[0] == "10.61.1.52"]
    assert (listed["ifindex"], listed["mac"]) == ("9", "0a:58:00:00:00:32")


def test_restart_finds_everything_and_sweeps_what_was_left(bpf_root: Path, settings: Settings) -> None:
    first = load_objects(settings, bpf_root)
    rig = Rig(first)
    rig.set_policy(A, {row(INGRESS, 7, TCP): ALLOW, row(INGRESS, 7, UDP): ALLOW})
    rig.set_policy(A, {row(INGRESS, 0, TCP): ALLOW})
    expected, (_, revision, _) = rig.tables.read_rows(), subject_row(rig, A.identity)
    first.close()  # the retired rows were never swept
    second = load_objects(settings, bpf_root)
    try:
        assert second.tables.read_rows() == expected
        assert second.tables.sweep() == 2
        second.tables.write(TablesDelta(subjects={A.identity: 1}), 1, {})
        _, values = second.maps["subjects"].read()
        assert values["revision"].max() == revision + 1, "revisions rise over a restart too"
    finally:
        second.close()


def test_connections_do_not_meet_the_revision_of_a_subject_before(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, WORLD.identity): ALLOW}, enforced=1)
    assert rig.from_wire(tcp(WORLD, B)).opened
    _, revision, _ = subject_row(rig, B.identity)
    for name in ("subjects", "policy"):  # as where they were started anew
        keys, _ = rig.datapath.maps[name].read()
        rig.datapath.maps[name].delete(keys)
    rig.tables = KernelTables(rig.datapath.maps)
    rig.tables.write(TablesDelta(subjects={B.identity: 1}), revision, {})
    assert not rig.from_wire(tcp(WORLD, B, ACK)).passed


def test_after_a_failure_the_driver_reads_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    too_many = {number: 0 for number in range(5000, 5000 + rig.datapath.maps["subjects"].max_entries)}
    with pytest.raises(MapFull):
        rig.write(TablesDelta(subjects=dict(too_many)))
    rig.write(TablesDelta(subjects=dict.fromkeys(too_many, None)))
    assert rig.tables.read_rows().subjects == {A.identity: 0, B.identity: 0}


def test_changes_made_by_others_are_found_by_reading(rig: Rig) -> None:
    maps = rig.datapath.maps
    maps["endpoints"].delete(endpoint_keys([A.ip]))
    assert A.ip not in rig.tables.read_rows().endpoints
    rig.write(TablesDelta(endpoints={A.ip: EndpointValue(A.endpoint_id, A.identity)}))
    assert A.ip in rig.tables.read_rows().endpoints


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("table", ["ipcache", "endpoints", "subjects", "policy", "ct"])
def test_dumps_have_a_cell_for_each_column(rig: Rig, table: str, raw: bool) -> None:
    rig.set_policy(A, {row(EGRESS, 0, TCP, 80, 16): ALLOW})
    rig.out(tcp(A, B))
    columns, rows = rig.tables.dump(table, raw)
    assert rows and all(len(each) == len(columns) for each in rows)


@pytest.mark.parametrize("table", ["ipcache", "endpoints", "subjects", "policy"])
def test_dumps_can_be_laid_beside_what_is_desired(rig: Rig, table: str) -> None:
    """In the same order, too: a node's dump and `kilim replay` differ where the rows do and nowhere else."""
    rows = [
        row(EGRESS, 0, TCP, 80, 16),
        row(EGRESS, 0, 0, 0, 0),
        row(INGRESS, 257, TCP, 80, 16),
        row(EGRESS, 0, TCP, 8, 12),
    ]
    rig.set_policy(A, dict.fromkeys(rows, ALLOW))
    assert rig.tables.dump(table) == dump_desired(rig.tables.read_rows(), table)
