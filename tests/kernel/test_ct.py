"""Connections: replies, re-judging after a change of policy, TCP's end, ICMP errors, time-outs."""

import time
from pathlib import Path

import pytest

from kilim.agent.bpf.datapath import Settings, load_objects
from kilim.model.tables import ALLOW, DENY, TablesDelta
from tests.kernel.frames import (
    ACK,
    CIDR,
    FAMILY,
    FIN,
    NODE,
    REMOTE,
    RST,
    SYN,
    TCP,
    WORLD,
    A,
    B,
    End,
    icmp,
    icmp_error,
    icmp_protocol,
    sctp,
    tcp,
    udp,
)  # fmt: skip
from tests.kernel.rig import EGRESS, INGRESS, Rig, row

pytestmark = pytest.mark.usefixtures("family")

POLICY_DENIED = 133
ICMPV6_ECHO_REPLY = 129


@pytest.fixture
def one_way(rig: Rig) -> Rig:
    """A may open to B, B to nobody; nobody else to A."""
    rig.set_policy(A, {row(EGRESS, B.identity): ALLOW, row(EGRESS, WORLD.identity): ALLOW})
    rig.set_policy(B, {row(INGRESS, A.identity): ALLOW})
    return rig


def reply_to(rig: Rig, flags: int = SYN | ACK) -> bool:
    return rig.out(tcp(B, A, flags, sport=80, dport=40000)).passed


def test_replies_pass_and_openings_do_not(one_way: Rig) -> None:
    assert not reply_to(one_way)
    first = one_way.out(tcp(A, B))
    assert first.passed and first.opened
    reply = one_way.out(tcp(B, A, SYN | ACK, sport=80, dport=40000))
    assert reply.passed and not reply.opened
    assert one_way.out(tcp(B, A)).reason == POLICY_DENIED


def end(of: End, port: int) -> str:
    return f"[{of.text}]:{port}" if FAMILY.is_ipv6 else f"{of.text}:{port}"


def test_one_entry_holds_both_verdicts(one_way: Rig) -> None:
    one_way.out(tcp(A, B))
    reply_to(one_way)
    [entry] = one_way.connections()
    assert (entry["source"], entry["destination"]) == (end(A, 40000), end(B, 80))
    assert entry["egress"].startswith("1001>1002@") and entry["ingress"].startswith("1002>1001@")


def test_world_and_host_replies_come_back(one_way: Rig) -> None:
    assert one_way.from_wire(tcp(WORLD, A, SYN | ACK, 443, 5000)).reason == POLICY_DENIED
    assert one_way.out(tcp(A, WORLD, SYN, 5000, 443)).passed
    assert one_way.from_wire(tcp(WORLD, A, SYN | ACK, 443, 5000)).passed
    one_way.set_policy(B, {row(INGRESS, 1): ALLOW})
    assert one_way.from_host(tcp(NODE, B, SYN, 5000, 80)).passed
    assert one_way.out(tcp(B, NODE, SYN | ACK, 80, 5000)).passed


def test_revoked_policy_stops_both_directions_of_a_connection(one_way: Rig) -> None:
    one_way.out(tcp(A, B))
    assert reply_to(one_way)
    one_way.set_policy(B, {row(INGRESS, WORLD.identity): ALLOW})
    outcome = one_way.out(tcp(A, B, ACK))
    assert outcome.reason == POLICY_DENIED and outcome.records[0].direction == INGRESS
    assert not reply_to(one_way, ACK)
    one_way.set_policy(B, {row(INGRESS, A.identity): ALLOW})
    assert one_way.out(tcp(A, B, ACK)).passed and reply_to(one_way, ACK)


def test_a_reply_is_judged_in_the_original_direction(rig: Rig) -> None:
    """B may open to A, but after A's opening to B is revoked B's data is still a reply."""
    rig.set_policy(A, {row(EGRESS, B.identity): ALLOW, row(INGRESS, B.identity): ALLOW})
    rig.out(tcp(A, B))
    assert reply_to(rig)
    rig.set_policy(A, {row(INGRESS, B.identity): ALLOW})
    assert not reply_to(rig, ACK)


def test_established_connections_ask_no_policy(one_way: Rig) -> None:
    one_way.out(tcp(A, B))
    maps = one_way.datapath.maps
    keys, _ = maps["policy"].read()
    maps["policy"].delete(keys)  # behind the driver's back: no revision changes
    assert one_way.out(tcp(A, B, ACK)).passed
    assert one_way.out(tcp(A, B, sport=2)).reason == POLICY_DENIED


def test_a_peer_that_changes_identity_is_judged_again(one_way: Rig) -> None:
    assert one_way.out(tcp(A, WORLD, SYN, 5000, 443)).passed
    one_way.write(TablesDelta(ipcache={WORLD.host: (1 << 24, 0)}))
    assert one_way.out(tcp(A, WORLD, ACK, 5000, 443)).reason == POLICY_DENIED


def test_deny_row_for_one_peer_reaches_its_connections(one_way: Rig) -> None:
    one_way.set_policy(B, {row(INGRESS, 0, TCP): ALLOW})
    assert one_way.out(tcp(A, B)).passed
    one_way.set_policy(B, {row(INGRESS, 0, TCP): ALLOW, row(INGRESS, A.identity): DENY})
    assert one_way.out(tcp(A, B, ACK)).reason == 181


def test_syn_reopens_a_closed_connection(one_way: Rig) -> None:
    one_way.out(tcp(A, B))
    reply_to(one_way)
    one_way.out(tcp(A, B, FIN | ACK))
    assert not one_way.out(tcp(A, B, SYN)).opened, "half closed is not closed"
    reply_to(one_way, FIN | ACK)
    assert one_way.out(tcp(A, B, SYN)).opened


def test_syn_from_the_other_end_is_no_reply(one_way: Rig) -> None:
    one_way.out(tcp(A, B))
    reply_to(one_way)
    assert one_way.out(tcp(B, A, SYN, 80, 40000)).reason == POLICY_DENIED
    assert reply_to(one_way, ACK)


def test_a_forgotten_connection_goes_on_from_either_end(one_way: Rig) -> None:
    """And nobody opens one by it."""
    one_way.out(tcp(A, B))
    assert reply_to(one_way)
    one_way.forget_connections()
    outcome = one_way.out(tcp(B, A, ACK, 80, 40000))
    assert outcome.passed and not outcome.opened
    assert not one_way.connections(), "who may not open connections fills no table with them"
    assert one_way.out(tcp(A, B, ACK)).opened
    [entry] = one_way.connections()
    assert (entry["source"], entry["destination"]) == (end(A, 40000), end(B, 80))
    assert one_way.out(tcp(B, A, ACK, 80, 40000)).passed
    assert one_way.out(tcp(B, A, SYN, 80, 40000)).reason == POLICY_DENIED
    one_way.forget_connections()
    for flags in (SYN, SYN | ACK):
        assert one_way.out(tcp(B, A, flags, 80, 40000)).reason == POLICY_DENIED
    one_way.set_policy(B, {row(INGRESS, WORLD.identity): ALLOW})
    refused = one_way.out(tcp(B, A, ACK, 80, 40000))
    assert refused.reason == POLICY_DENIED and refused.records[0].direction == EGRESS


def test_a_forgotten_connection_to_the_world_goes_on_from_there(one_way: Rig) -> None:
    assert one_way.from_wire(tcp(WORLD, A, ACK, 443, 5000)).passed
    assert one_way.from_wire(tcp(CIDR, A, ACK, 443, 5000)).reason == POLICY_DENIED


def test_mid_stream_without_entry_is_judged_as_new(one_way: Rig) -> None:
    assert one_way.out(tcp(A, B, ACK)).opened


def test_lives_of_tcp(rig: Rig) -> None:
    def seconds() -> int:
        [entry] = rig.connections()
        return int(entry["expires_s"])

    rig.out(tcp(A, B))
    assert 58 <= seconds() <= 62
    reply_to(rig)
    assert 58 <= seconds() <= 62, "half open: who asked may not be there"
    rig.out(tcp(A, B, ACK))
    assert 7998 <= seconds() <= 8002
    rig.out(tcp(A, B, FIN | ACK))
    assert 7998 <= seconds() <= 8002, "half closed: the other end may go on for long"
    reply_to(rig, FIN | ACK)
    assert 8 <= seconds() <= 12
    rig.out(tcp(A, B))
    assert 58 <= seconds() <= 62, "another connection"
    reply_to(rig, RST | ACK)
    assert 8 <= seconds() <= 12


def of_tcp(rig: Rig) -> list[dict[str, str]]:
    return [entry for entry in rig.connections() if entry["protocol"] in ("TCP", str(TCP))]


def test_a_full_table_breaks_no_connection_that_policy_allows(bpf_root: Path, settings: Settings) -> None:
    """The oldest entries go; what was opened and may be goes on from either end, and nothing else does."""
    datapath = load_objects(Settings(node_ip=settings.node_ip, ct_max_entries=1024), bpf_root)
    try:
        rig = Rig(datapath)
        rig.set_policy(A, {row(EGRESS, B.identity): ALLOW})
        for frame in (tcp(A, B), tcp(B, A, SYN | ACK, 80, 40000), tcp(A, B, ACK)):
            assert rig.out(frame).passed
        assert len(of_tcp(rig)) == 1
        ports = iter(range(1 << 16))
        while of_tcp(rig):
            for _ in range(1024):
                frame = udp(A, B, sport=next(ports))
                rig.run(frame)
                rig.run(frame)  # entries of one packet alone take no room from others
        assert len(rig.connections()) <= 1024
        assert rig.out(tcp(B, A, ACK, 80, 40000)).passed and rig.out(tcp(A, B, ACK)).passed
        assert rig.out(tcp(B, A, SYN, 80, 40001)).reason == POLICY_DENIED
        assert of_tcp(rig)
    finally:
        datapath.close()


def test_expired_entry_is_none(bpf_root: Path, settings: Settings) -> None:
    datapath = load_objects(Settings(node_ip=settings.node_ip, ct_max_entries=4096, ct_life_other_s=1), bpf_root)
    try:
        rig = Rig(datapath)
        rig.set_policy(A, {row(EGRESS, B.identity): ALLOW})
        assert rig.out(udp(A, B)).opened
        assert rig.out(udp(B, A, 53, 40000)).passed
        deadline = time.monotonic() + 5
        while rig.tables.dump("ct")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert rig.out(udp(B, A, 53, 40000)).reason == POLICY_DENIED
    finally:
        datapath.close()


def test_sctp_is_followed_both_ways(one_way: Rig) -> None:
    assert one_way.out(sctp(B, A, 80, 40000)).reason == POLICY_DENIED
    assert one_way.out(sctp(A, B)).opened
    assert one_way.out(sctp(B, A, 80, 40000)).passed
    assert one_way.out(sctp(B, A, 81, 40000)).reason == POLICY_DENIED
    [entry] = one_way.connections()
    assert 58 <= int(entry["expires_s"]) <= 62
    assert one_way.out(icmp_error(B, A, sctp(A, B))).passed
    one_way.forget_connections()
    assert one_way.out(sctp(B, A, 80, 40000)).reason == POLICY_DENIED, "any of its packets may be the first"
    assert one_way.out(sctp(A, B)).opened and one_way.out(sctp(B, A, 80, 40000)).passed


def test_echo_replies_belong_to_their_request(one_way: Rig) -> None:
    assert one_way.out(icmp(B, A, 0)).reason == POLICY_DENIED
    assert one_way.out(icmp(A, B, 8)).opened
    assert one_way.out(icmp(B, A, 0)).passed
    assert one_way.out(icmp(B, A, 0, number=8)).reason == POLICY_DENIED
    assert one_way.out(icmp(B, A, 8)).reason == POLICY_DENIED, "a request with the id of another's"


def test_echo_requests_are_never_replies(one_way: Rig) -> None:
    """With id 0 both ends have the same port, and only the type tells a request from a reply."""
    assert one_way.out(icmp(A, B, 8, number=0)).opened
    assert one_way.out(icmp(B, A, 0, number=0)).passed
    assert one_way.out(icmp(B, A, 8, number=0)).reason == POLICY_DENIED
    assert one_way.out(icmp(A, B, 8, number=0)).passed and one_way.out(icmp(B, A, 0, number=0)).passed


def test_an_unasked_echo_reply_gives_no_consent_to_requests(rig: Rig) -> None:
    rig.set_policy(B, {row(INGRESS, 0, icmp_protocol()): ALLOW})
    assert rig.out(icmp(A, B, 8, number=0)).opened
    rig.set_policy(B, {row(INGRESS, 0, icmp_protocol(), ICMPV6_ECHO_REPLY if FAMILY.is_ipv6 else 0, 16): ALLOW})
    rig.out(icmp(A, B, 0, number=0))
    assert rig.out(icmp(A, B, 8, number=0)).reason == POLICY_DENIED


def test_icmp_errors_about_live_connections_pass(one_way: Rig) -> None:
    about = udp(A, B)
    assert one_way.out(icmp_error(B, A, about)).reason == POLICY_DENIED
    one_way.out(about)
    assert one_way.out(icmp_error(B, A, about)).passed
    assert one_way.out(icmp_error(B, A, about, icmp_type=11)).passed
    assert one_way.out(icmp_error(B, A, udp(A, B, dport=54))).reason == POLICY_DENIED
    assert one_way.from_wire(icmp_error(WORLD, A, about)).passed, "routers on the way speak for themselves"


def test_icmp_errors_about_connections_that_policy_has_revoked_are_judged(one_way: Rig) -> None:
    about = udp(A, B)
    one_way.out(about)
    assert one_way.out(icmp_error(B, A, about)).passed
    one_way.set_policy(B, {row(INGRESS, WORLD.identity): ALLOW})
    assert one_way.out(icmp_error(B, A, about)).reason == POLICY_DENIED
    one_way.set_policy(B, {row(INGRESS, A.identity): ALLOW})
    assert one_way.out(about).passed and one_way.out(icmp_error(B, A, about)).passed, "path MTU discovery"


def test_icmp_errors_must_be_about_what_the_receiver_sent(one_way: Rig) -> None:
    about = udp(A, B)
    one_way.out(about)
    assert one_way.from_wire(icmp_error(WORLD, B, about)).reason == POLICY_DENIED
    assert one_way.out(icmp_error(B, A, udp(A, REMOTE))).reason == POLICY_DENIED


def test_established_udp_writes_nothing_within_a_second(one_way: Rig) -> None:
    result = one_way.send("from_endpoint", one_way.repeatable(A, B, udp(A, B)), repeat=1000)
    assert result.passed and sum(record.type == 1 for record in result.records) == 1
