"""Audit mode: what policy refuses passes, is counted and recorded once; nothing of that outlives the mode."""

import errno
from collections.abc import Callable
from threading import Thread
from time import sleep

import pytest

from kilim.agent.bpf.addresses import ips_of
from kilim.agent.bpf.maps import Map, Rows
from kilim.agent.records import AUDITED, Record
from kilim.model.tables import ALLOW, DENY, UNKNOWN_SUBJECT, EndpointValue, TablesDelta
from kilim.model.tables import AUDITED as AUDIT_FLAG
from tests.kernel.frames import ACK, FIN, OTHER_NODE, RST, SYN, WORLD, A, B, End, icmp, icmp_error, tcp, udp
from tests.kernel.rig import BOTH, EGRESS, INGRESS, Rig, row

pytestmark = pytest.mark.usefixtures("family")

DENIED, DENY_RULE = 133, 181


def reply(flags: int = SYN | ACK) -> bytes:
    return tcp(B, A, flags, sport=80, dport=40000)


@pytest.mark.parametrize(("subject", "direction"), [(B, INGRESS), (A, EGRESS)])
@pytest.mark.parametrize(("rows", "reason"), [(False, DENIED), (True, DENY_RULE)])
def test_a_connection_passes_and_is_recorded_once(
    rig: Rig, subject: End, direction: int, rows: bool, reason: int
) -> None:
    peer = A if subject is B else B
    rig.set_policy(subject, {row(direction, peer.identity): DENY} if rows else {}, 1 << direction)
    assert rig.out(tcp(A, B)).reason == reason
    rig.set_audit_mode(subject)
    first = rig.out(tcp(A, B))
    assert first.passed and first.audits == [(direction, reason)] and not first.opened
    for frame in (reply(), tcp(A, B, ACK), reply(ACK), tcp(A, B, ACK)):
        outcome = rig.out(frame)
        assert outcome.passed and not outcome.records
    assert rig.counters()[AUDITED, direction][0] == 5


@pytest.mark.parametrize("build", [tcp, udp, icmp])
def test_it_ends_with_the_mode(rig: Rig, build: Callable[[End, End], bytes]) -> None:
    frame = build(A, B)
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    assert rig.out(frame).passed and rig.out(frame).passed
    rig.set_audit_mode()
    assert rig.out(frame).reason == DENIED
    assert not rig.out(frame).audits


def test_replies_end_with_the_mode(rig: Rig) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    assert rig.out(tcp(A, B)).passed and rig.out(reply()).passed
    rig.set_audit_mode()
    assert rig.out(reply(ACK)).reason == DENIED


def test_each_side_answers_for_itself(rig: Rig) -> None:
    rig.set_policy(A, {}, BOTH)
    rig.set_policy(B, {}, BOTH)
    rig.set_audit_mode(A)
    outcome = rig.out(tcp(A, B))
    assert outcome.reason == DENIED and outcome.records[-1].direction == INGRESS
    rig.set_audit_mode(A, B)
    outcome = rig.out(tcp(A, B))
    assert outcome.passed and outcome.audits == [(EGRESS, DENIED), (INGRESS, DENIED)]
    assert not rig.out(tcp(A, B)).records
    rig.set_audit_mode(B)
    outcome = rig.out(tcp(A, B))
    assert outcome.reason == DENIED and outcome.records[-1].direction == EGRESS


def test_a_live_connection_that_policy_turns_against_is_recorded(rig: Rig) -> None:
    rig.set_audit_mode(B)
    assert rig.out(tcp(A, B)).opened
    rig.set_policy(B, {}, 1)
    assert rig.out(tcp(A, B, ACK)).audits == [(INGRESS, DENIED)]
    assert not rig.out(tcp(A, B, ACK)).records
    rig.set_policy(B, {row(INGRESS, A.identity): ALLOW}, 1)
    assert rig.out(tcp(A, B, ACK)).opened, "anew: between the two it passed by audit mode alone"
    rig.set_audit_mode()
    assert rig.out(tcp(A, B, ACK)).passed, "consent, since policy allows it"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (lambda: tcp(A, B), lambda: tcp(A, B, ACK)),
        (lambda: tcp(A, B), lambda: reply()),
        (lambda: udp(A, B), lambda: udp(B, A, 53, 40000)),
        (lambda: icmp(A, B), lambda: icmp(B, A, icmp_type=0)),
    ],
)
def test_what_policy_comes_to_allow_is_reported_as_opened(
    rig: Rig, first: Callable[[], bytes], later: Callable[[], bytes]
) -> None:
    """Once, and as its first packet was, though a reply be the one that tells."""
    check_reported_as_opened(rig, first(), later())


def check_reported_as_opened(rig: Rig, first: bytes, later: bytes) -> None:
    expected = ends_of(rig.out(first).records)
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    rig.forget_connections()
    assert rig.out(first).audits
    rig.set_policy(B, {row(INGRESS, A.identity): ALLOW}, 1)
    told = rig.out(later)
    assert told.opened and ends_of(told.records) == expected
    assert not rig.out(first).records and not rig.out(later).records


def ends_of(records: list[Record]) -> list[tuple[object, ...]]:
    names = "src_ip", "dst_ip", "src_port", "dst_port", "src_identity", "dst_identity", "flags"
    return [tuple(getattr(record, name) for name in names) for record in records]


def test_the_other_end_s_reset_is_not_undone(rig: Rig) -> None:
    """Packets that pass by audit mode alone, on one CPU, while the answer comes on another."""
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)

    def again(frame: bytes) -> bytes:
        return rig.repeatable(A, B, frame)

    for number in range(120):
        ports = {"sport": 41000 + number}
        assert rig.out(again(tcp(A, B, **ports))).passed
        stream = Thread(target=rig.run, args=(again(tcp(A, B, ACK, **ports)), 30_000))
        stream.start()
        sleep(0.002)
        rig.run(tcp(B, A, RST | ACK, sport=80, dport=41000 + number))
        stream.join()
    assert [each["reply_flags"] for each in rig.connections()] == ["0x14"] * 120


def test_a_connection_opened_anew_is_recorded_anew(rig: Rig) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    assert rig.out(tcp(A, B)).audits
    assert rig.out(tcp(A, B, FIN | ACK)).passed and rig.out(reply(FIN | ACK)).passed
    assert rig.out(tcp(A, B)).audits == [(INGRESS, DENIED)]


def test_what_belongs_to_no_connection_is_recorded_each_time(rig: Rig) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    stray = icmp(A, B, icmp_type=0)
    assert all(rig.out(stray).audits == [(INGRESS, DENIED)] for _ in range(2))


def test_only_what_policy_says_is_audited(rig: Rig) -> None:
    rig.set_audit_mode(A, B)
    rig.write(TablesDelta(subjects={B.identity: None}))
    assert rig.out(tcp(A, B)).reason == 165, "no policy in place stays closed"
    rig.write(TablesDelta(subjects={B.identity: BOTH | UNKNOWN_SUBJECT}))
    assert rig.out(tcp(A, B)).reason == 165, "nor does an identity open that the log does not know"
    assert rig.out(tcp(WORLD, B)).reason == 132, "a forged source"


def test_packets_of_the_node_and_of_the_wire(rig: Rig) -> None:
    rig.set_policy(B, {}, BOTH)
    rig.set_audit_mode(B)
    from_wire = rig.from_wire(tcp(OTHER_NODE, B))
    assert from_wire.passed and from_wire.audits == [(INGRESS, DENIED)]
    from_pod = rig.out(tcp(B, WORLD))
    assert from_pod.passed and from_pod.audits == [(EGRESS, DENIED)]
    assert rig.from_wire(tcp(WORLD, B, SYN | ACK, sport=80, dport=40000)).passed, "its reply"
    rig.set_audit_mode()
    assert rig.from_wire(tcp(WORLD, B, SYN | ACK, sport=80, dport=40000)).reason == DENIED


def test_the_mode_is_read_back_and_shown(rig: Rig) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    assert [rig.tables.read_rows().endpoints[end.ip].flags for end in (A, B)] == [0, 1]
    columns, listed = rig.tables.dump("endpoints")
    assert [each[columns.index("flags")] for each in listed] == ["-", "audit"]
    rig.out(tcp(A, B))
    assert [(each["egress"][:5], each["ingress"]) for each in rig.connections()] == [("1001>", "audit")]


def test_records_say_audit(rig: Rig) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    (record,) = rig.out(tcp(A, B)).records
    assert (record.verdict_name, record.reason_name) == ("AUDIT", "POLICY_DENIED")


def test_audit_mode_and_what_it_is_for_in_one_write(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No packet drops in between, at the beginning or at the end."""
    assert rig.out(tcp(A, B)).passed
    seen: list[bool] = []
    write = Map.update

    def write_and_look(table: Map, keys: Rows, values: Rows) -> None:
        write(table, keys, values)
        if len(keys):
            seen.append(rig.out(tcp(A, B, ACK)).passed)

    monkeypatch.setattr(Map, "update", write_and_look)
    for flags, enforced in ((AUDIT_FLAG, 1), (0, 0)):
        row_of_b = EndpointValue(B.endpoint_id, B.identity, flags)
        rig.write(TablesDelta(endpoints={B.ip: row_of_b}, subjects={B.identity: enforced}))
    assert seen == [True] * 8, "each write of rows, and of the epoch after it"


def test_it_ends_while_policy_cannot_be_written(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.set_policy(B, {}, 1)
    rig.set_audit_mode(B)
    assert rig.out(tcp(A, B)).passed
    write = Map.update

    def refuse_policy(table: Map, keys: Rows, values: Rows) -> None:
        if table is rig.datapath.maps["policy"]:
            raise OSError(errno.E2BIG, "full")
        write(table, keys, values)

    monkeypatch.setattr(Map, "update", refuse_policy)
    row_of_b = EndpointValue(B.endpoint_id, B.identity)
    with pytest.raises(OSError, match="full"):
        rig.write(TablesDelta(endpoints={B.ip: row_of_b}, policy={A.identity: {row(EGRESS, 7): ALLOW}}))
    assert rig.out(tcp(A, B)).reason == DENIED


def test_it_does_not_begin_for_the_endpoint_that_had_the_address_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.set_policy(B, {}, 1)
    seen: list[tuple[int, int]] = []
    write = Map.update

    def write_and_look(table: Map, keys: Rows, values: Rows) -> None:
        write(table, keys, values)
        if len(keys) and table is rig.datapath.maps["endpoints"]:
            found, held = table.read()
            seen.extend(
                (int(row["endpoint_id"]), int(row["flags"])) for row in held[[ip == B.ip for ip in ips_of(found["ip"])]]
            )

    monkeypatch.setattr(Map, "update", write_and_look)
    rig.write(TablesDelta(endpoints={B.ip: EndpointValue(99, 1005, AUDIT_FLAG)}, subjects={1005: 1}))
    assert seen == [(99, AUDIT_FLAG)]


def test_icmp_errors_end_with_the_mode(rig: Rig) -> None:
    rig.set_policy(A, {}, BOTH)
    rig.set_policy(B, {}, BOTH)
    rig.set_audit_mode(A, B)
    about = tcp(A, B)
    assert rig.out(about).passed and rig.out(icmp_error(B, A, about)).passed
    rig.set_audit_mode()
    assert rig.out(icmp_error(B, A, about)).reason == DENIED
