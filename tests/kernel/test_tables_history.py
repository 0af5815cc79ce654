"""Whatever the way, the kernel ends up with the rows that were asked for (I4), and no packet sees half of a policy."""

import random
import threading
from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.agent.records import FORWARDED
from kilim.model.tables import ALLOW, DENY, TIERS, EndpointValue, PolicyRows, Tables, TablesDelta, row_value
from tests.kernel.frames import ICMP, A, B, icmp
from tests.kernel.rig import INGRESS, REDIRECT, SHOT, Rig, row

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
]


def test_no_packet_sees_half_of_a_policy(rig: Rig) -> None:
    """Untracked packets, judged one by one, while the policy changes under them as fast as it can."""
    rig.set_policy(B, EQUIVALENT[0], enforced=1)
    program = rig.datapath.program_fd("from_endpoint")
    done = threading.Event()

    def change() -> None:
        choice = random.Random(1)
        for _ in range(1500):
            rig.set_policy(B, choice.choice(EQUIVALENT), enforced=1)
            rig.tables.sweep()
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    runs = {13: 0, 14: 0}
    while not done.is_set():
        for icmp_type, verdict in ((13, REDIRECT), (14, SHOT)):
            assert syscall.run_program(program, icmp(A, B, icmp_type), 500).retval == verdict
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
    (EQUIVALENT[8], 1),
    ({row(INGRESS, A.identity): ALLOW, row(INGRESS, A.identity, ICMP, 14, 16): DENY}, 0),
]


def test_no_packet_sees_the_flags_of_one_policy_and_the_rows_of_another(rig: Rig) -> None:
    """What is allowed with and without a policy passes while the policy comes and goes."""
    program = rig.datapath.program_fd("from_endpoint")
    done = threading.Event()

    def change() -> None:
        choice = random.Random(2)
        for _ in range(1500):
            rows, flags = choice.choice(OPEN_OR_CLOSED)
            rig.set_policy(B, rows, enforced=flags)
            rig.tables.sweep()
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not done.is_set():
        assert syscall.run_program(program, icmp(A, B, 13), 500).retval == REDIRECT
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


@pytest.mark.parametrize("seed", range(2))
def test_any_history_ends_in_the_rows_asked_for(bpf_root: Path, settings: Settings, seed: int) -> None:
    choice = random.Random(seed)
    ifindex_of = {ip: 100 + ip for ip in range(1, 10)}
    datapath = load_objects(settings, bpf_root)
    held = Tables()
    try:
        for seq in range(1, 90):
            wanted = random_tables(choice)
            datapath.tables.write(TablesDelta.between(held, wanted), seq, ifindex_of)
            held = wanted
            if choice.random() < 0.5:
                datapath.tables.sweep(min_age_s=0)
            if choice.random() < 0.1:
                datapath.close()
                datapath = load_objects(settings, bpf_root)
            if choice.random() < 0.3:
                assert datapath.tables.read_rows() == wanted
        datapath.tables.sweep(min_age_s=0)
        keys, _ = datapath.maps["policy"].read()
        assert len(keys) == sum(len(policy) for policy in held.policy.values()), "nothing retired is left"
    finally:
        datapath.close()
