"""Whatever the way, the kernel ends up with the rows that were asked for (I4), and no packet sees half of a policy."""

import random
import threading
from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.agent.records import FORWARDED
from kilim.model.tables import (
    ADMIN,
    ALLOW,
    BASELINE,
    DENY,
    PASS,
    TIERS,
    EndpointValue,
    PolicyKey,
    PolicyRows,
    RowChanges,
    Tables,
    TablesDelta,
    row_value,
    tier_flag,
)
from tests.kernel.frames import ICMP, A, B, icmp
from tests.kernel.rig import INGRESS, REDIRECT, SHOT, Rig, row

HIGH, LOW = 40_000, 7
ROUNDS = 500


def in_tier(tier: int, peer: int, icmp_type: int = 0, length: int = 0) -> PolicyKey:
    """Of all protocols, where no type is given."""
    return row(INGRESS, peer, ICMP if icmp_type else 0, icmp_type, length)._replace(tier=tier)


# Each allows ICMP type 13 from A to B and none allows type 14.
EQUIVALENT: list[PolicyRows] = [
    {row(INGRESS, A.identity, ICMP, 13, 16): ALLOW},
    {row(INGRESS, A.identity): ALLOW, row(INGRESS, A.identity, ICMP, 14, 16): DENY},
    {row(INGRESS, A.identity, ICMP): ALLOW, row(INGRESS, A.identity, ICMP, 14, 15): DENY},
    {row(INGRESS, 0, ICMP, 13, 16): ALLOW},
    {row(INGRESS, 0): ALLOW, row(INGRESS, A.identity, ICMP, 14, 16): DENY},
    {row(INGRESS, 0): ALLOW, row(INGRESS, 0, ICMP, 14, 16): DENY},
    {row(INGRESS, 0, ICMP, 12, 15): ALLOW, row(INGRESS, 77): DENY},
    {row(INGRESS, 0, ICMP, 12, 15): ALLOW, row(INGRESS, A.identity, ICMP, 13, 16): ALLOW},
    {row(INGRESS, 0): ALLOW, row(INGRESS, 0, ICMP, 14, 16): DENY, row(INGRESS, A.identity): ALLOW},
    {in_tier(ADMIN, A.identity, 13, 16): row_value(ALLOW, HIGH), in_tier(ADMIN, 0): row_value(DENY, LOW)},
    {in_tier(ADMIN, 0, 14, 16): row_value(DENY, HIGH), row(INGRESS, A.identity): ALLOW},
    {
        in_tier(ADMIN, A.identity): row_value(PASS, HIGH),
        in_tier(ADMIN, 0): row_value(DENY, LOW),
        row(INGRESS, 0, ICMP, 13, 16): ALLOW,
        in_tier(BASELINE, 0): row_value(DENY, LOW),
    },
    {in_tier(BASELINE, A.identity, 13, 16): row_value(ALLOW, HIGH), in_tier(BASELINE, 0): row_value(DENY, LOW)},
    {in_tier(ADMIN, 0): row_value(PASS, HIGH), in_tier(BASELINE, A.identity, 14, 16): row_value(DENY, LOW)},
]


def flags_of(rows: PolicyRows) -> int:
    """Those tiers speak that have rows."""
    return sum(tier_flag(tier, INGRESS) for tier in {key.tier for key in rows})


def sweep_at_times(rig: Rig, choice: random.Random) -> None:
    """It waits for programs that run, in which time many changes more can be made."""
    if choice.random() < 0.15:
        rig.tables.sweep()


def test_no_packet_sees_half_of_a_policy(rig: Rig) -> None:
    """Untracked packets, judged one by one, while the policy changes under them as fast as it can."""
    rig.set_policy(B, EQUIVALENT[0], flags_of(EQUIVALENT[0]))
    program = rig.datapath.program_fd("from_endpoint")
    done = threading.Event()

    def change() -> None:
        choice = random.Random(1)
        for _ in range(ROUNDS):
            rows = choice.choice(EQUIVALENT)
            rig.set_policy(B, rows, flags_of(rows))
            sweep_at_times(rig, choice)
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    runs = {13: 0, 14: 0}
    frames = {icmp_type: rig.repeatable(A, B, icmp(A, B, icmp_type)) for icmp_type in runs}
    while not done.is_set():
        for icmp_type, verdict in ((13, REDIRECT), (14, SHOT)):
            assert syscall.run_program(program, frames[icmp_type], 500).retval == verdict
            runs[icmp_type] += 500
    thread.join()
    counted = {key: packets for key, (packets, _) in rig.counters().items()}
    assert counted[FORWARDED, INGRESS] == runs[13]
    assert counted.get((133, INGRESS), 0) + counted.get((181, INGRESS), 0) == runs[14]


# Each with the flags of its subject: both open to ICMP type 13, closed or open to the rest.
OPEN_OR_CLOSED: list[tuple[PolicyRows, int]] = [
    ({}, 0),
    ({}, 2),
    (EQUIVALENT[0], 1),
    (EQUIVALENT[3], 1),
    (EQUIVALENT[4], 3),
    *((rows, flags_of(rows)) for rows in EQUIVALENT[8:]),
    ({row(INGRESS, A.identity): ALLOW, row(INGRESS, A.identity, ICMP, 14, 16): DENY}, 0),
]


def test_no_packet_sees_the_flags_of_one_policy_and_the_rows_of_another(rig: Rig) -> None:
    """What is allowed with and without a policy passes while the policy comes and goes."""
    program = rig.datapath.program_fd("from_endpoint")
    done = threading.Event()

    def change() -> None:
        choice = random.Random(2)
        for _ in range(ROUNDS):
            rows, flags = choice.choice(OPEN_OR_CLOSED)
            rig.set_policy(B, rows, enforced=flags)
            sweep_at_times(rig, choice)
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    frame = rig.repeatable(A, B, icmp(A, B, 13))
    while not done.is_set():
        assert syscall.run_program(program, frame, 500).retval == REDIRECT
    thread.join()
    assert {reason for reason, _ in rig.counters()} == {FORWARDED}


def random_policy(choice: random.Random) -> PolicyRows:
    keys = [
        row(choice.randrange(2), choice.choice((0, 7, 8)), choice.choice((6, 17)), 1 << 10, 6)._replace(tier=tier)
        for tier in choice.choices(TIERS, k=choice.randrange(5))
    ]
    found = {key: row_value(choice.choice((1, 2)), choice.randrange(3) if key.tier else 0) for key in keys}
    return found | {row(choice.randrange(2), peer): ALLOW for peer in (0, 9) if choice.random() < 0.3}


def random_tables(choice: random.Random) -> Tables:
    subjects = {identity: choice.randrange(64) for identity in range(1001, 1006) if choice.random() < 0.7}
    return Tables(
        {(ip << 8, 24 + ip % 9): (choice.randrange(1, 9), ip) for ip in range(1, 30) if choice.random() < 0.5},
        {
            ip: EndpointValue(ip, choice.choice([*subjects, 1001]), ip & 1)
            for ip in range(1, 10)
            if choice.random() < 0.5
        },
        subjects,
        {identity: policy for identity in subjects if (policy := random_policy(choice))},
    )


def by_row(held: Tables, delta: TablesDelta) -> TablesDelta:
    """The same, of subjects that stay only the rows that differ."""
    wanted = {each: rows or {} for each, rows in delta.policy.items() if delta.subjects.get(each, 0) is not None}
    changes: dict[int, RowChanges] = {}
    for subject, new in wanted.items():
        old = held.policy.get(subject, {})
        differing: RowChanges = {key: value for key, value in new.items() if old.get(key) != value}
        changes[subject] = differing | dict.fromkeys(old.keys() - new.keys())
    rest = {subject: rows for subject, rows in delta.policy.items() if subject not in wanted}
    return TablesDelta(delta.ipcache, delta.endpoints, delta.subjects, rest, changes)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_in_the_rows_asked_for(bpf_root: Path, settings: Settings, seed: int) -> None:
    choice = random.Random(seed)
    ifindex_of = {ip: 100 + ip for ip in range(1, 10)}
    datapath = load_objects(settings, bpf_root)
    held = Tables()
    try:
        for seq in range(1, 90):
            wanted = random_tables(choice)
            delta = TablesDelta.between(held, wanted)
            datapath.tables.write(by_row(held, delta) if choice.random() < 0.5 else delta, seq, ifindex_of)
            held = wanted
            if choice.random() < 0.5:
                datapath.tables.sweep()
            if choice.random() < 0.1:
                datapath.close()
                datapath = load_objects(settings, bpf_root)
            if choice.random() < 0.3:
                assert datapath.tables.read_rows() == wanted
        datapath.tables.sweep()
        keys, _ = datapath.maps["policy"].read()
        assert len(keys) == sum(len(policy) for policy in held.policy.values()), "nothing retired is left"
    finally:
        datapath.close()
