"""Tiers of policy: which row a packet is judged by, and that live connections are judged again."""

from collections.abc import Mapping

import pytest

from kilim.model.tables import ADMIN, ALLOW, BASELINE, DENY, NORMAL, PASS, PolicyKey, row_value, tier_flag
from tests.kernel.frames import ACK, SYN, A, B, tcp, udp
from tests.kernel.rig import EGRESS, INGRESS, Rig, row

pytestmark = pytest.mark.usefixtures("family")

POLICY_DENIED, POLICY_DENY = 133, 181
HIGH, LOW = 40_000, 7
ACCEPTS, DENIES, PASSES = (row_value(action, HIGH) for action in (ALLOW, DENY, PASS))


def in_tier(tier: int, peer: int = A.identity, protocol: int = 0, port: int = 0, length: int = 0) -> PolicyKey:
    return row(INGRESS, peer, protocol, port, length)._replace(tier=tier)


def set_rows(rig: Rig, rows: Mapping[PolicyKey, int], *tiers: int) -> None:
    """Rows of B for ingress; `tiers` speak."""
    rig.set_policy(B, dict(rows), enforced=sum(tier_flag(tier, INGRESS) for tier in tiers))


@pytest.mark.parametrize(
    ("admin", "normal", "baseline", "reason"),
    [
        (ACCEPTS, 0, DENIES, 0),
        (DENIES, ALLOW, ACCEPTS, POLICY_DENY),
        (PASSES, ALLOW, DENIES, 0),
        (PASSES, DENY, ACCEPTS, POLICY_DENY),
        (PASSES, 0, ACCEPTS, POLICY_DENIED),
        (0, 0, ACCEPTS, POLICY_DENIED),
        (0, ALLOW, DENIES, 0),
        (PASSES, None, DENIES, POLICY_DENY),
        (0, None, DENIES, POLICY_DENY),
        (0, None, ACCEPTS, 0),
        (0, None, PASSES, 0),
        (PASSES, None, 0, 0),
        (DENIES, None, None, POLICY_DENY),
        (None, None, 0, 0),
    ],
)
def test_one_row_of_each_tier(
    rig: Rig, admin: int | None, normal: int | None, baseline: int | None, reason: int
) -> None:
    """0: the tier speaks but has no row for the packet; None: it does not speak."""
    values = {ADMIN: admin, NORMAL: normal, BASELINE: baseline}
    rows = {in_tier(tier): value for tier, value in values.items() if value}
    set_rows(rig, rows, *(tier for tier, value in values.items() if value is not None))
    outcome = rig.out(tcp(A, B))
    assert (outcome.passed, outcome.reason) == (not reason, reason)


def test_a_tier_that_does_not_speak_is_not_looked_up(rig: Rig) -> None:
    set_rows(rig, {in_tier(ADMIN): DENIES, in_tier(BASELINE): DENIES, in_tier(NORMAL): ALLOW}, NORMAL)
    assert rig.out(tcp(A, B)).passed


def test_tiers_speak_for_each_direction(rig: Rig) -> None:
    rows = {row(EGRESS, B.identity)._replace(tier=ADMIN): DENIES}
    rig.set_policy(A, rows, enforced=tier_flag(ADMIN, EGRESS))
    assert rig.out(tcp(A, B)).reason == POLICY_DENY
    assert rig.out(tcp(B, A)).passed


@pytest.mark.parametrize("tier", [ADMIN, BASELINE])
def test_the_greater_precedence_counts_among_peer_and_any_peer(rig: Rig, tier: int) -> None:
    high, low = row_value(ALLOW, HIGH), row_value(DENY, LOW)
    set_rows(rig, {in_tier(tier): high, in_tier(tier, peer=0): low}, tier)
    assert rig.out(tcp(A, B)).passed
    set_rows(rig, {in_tier(tier, 0, 6, 80, 16): high, in_tier(tier): low}, tier)
    assert rig.out(tcp(A, B, sport=2)).passed
    assert rig.out(tcp(A, B, dport=81)).reason == POLICY_DENY
    set_rows(rig, {in_tier(tier): row_value(ALLOW, LOW), in_tier(tier, peer=0): row_value(DENY, LOW)}, tier)
    assert rig.out(tcp(A, B, sport=3)).reason == POLICY_DENY, "of two alike deny counts"


def test_the_more_specific_row_of_a_peer_is_the_one_that_counts(rig: Rig) -> None:
    rows = {in_tier(ADMIN): row_value(DENY, LOW), in_tier(ADMIN, A.identity, 6, 80, 12): row_value(ALLOW, HIGH)}
    set_rows(rig, rows, ADMIN)
    assert [port for port in range(76, 100) if rig.out(tcp(A, B, dport=port)).passed] == list(range(80, 96))
    assert rig.out(udp(A, B, dport=80)).reason == POLICY_DENY


def test_a_live_connection_is_judged_again_when_a_tier_turns_against_it(rig: Rig) -> None:
    set_rows(rig, {in_tier(NORMAL): ALLOW}, NORMAL)
    assert rig.out(tcp(A, B)).passed and rig.out(tcp(B, A, SYN | ACK, sport=80, dport=40000)).passed
    set_rows(rig, {in_tier(NORMAL): ALLOW, in_tier(ADMIN): DENIES}, NORMAL, ADMIN)
    assert rig.out(tcp(A, B)).reason == POLICY_DENY
    assert rig.out(tcp(B, A, SYN | ACK, sport=80, dport=40000)).reason == POLICY_DENY, "its replies too"
    set_rows(rig, {in_tier(NORMAL): ALLOW, in_tier(ADMIN): PASSES}, NORMAL, ADMIN)
    assert rig.out(tcp(A, B)).passed


def test_rows_of_all_tiers_are_read_back_and_shown(rig: Rig) -> None:
    rows = {in_tier(ADMIN): DENIES, in_tier(NORMAL, 0, 6, 80, 16): ALLOW, in_tier(BASELINE): row_value(PASS, LOW)}
    set_rows(rig, rows, ADMIN, NORMAL, BASELINE)
    assert rig.tables.read_rows().policy[B.identity] == rows
    _, shown = rig.tables.dump("policy")
    assert sorted((each[1], each[-1]) for each in shown if each[0] == str(B.identity)) == [
        ("admin-ingress", f"deny@{HIGH}"),
        ("baseline-ingress", f"pass@{LOW}"),
        ("ingress", "allow"),
    ]
