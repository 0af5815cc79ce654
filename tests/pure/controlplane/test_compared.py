"""Digests that are said against ours: early ones wait, differences stand until they are gone, memory is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kilim.controlplane.compared import Compared
from kilim.controlplane.table_digests import TableDigests
from kilim.model.digest import digest_of
from kilim.v1 import controlplane_pb2 as api


def digest(seq: int) -> bytes:
    return seq.to_bytes(32, "big")


def test_what_is_early_is_compared_when_ours_is_there() -> None:
    compared = Compared("table digest")
    compared.hear(5, digest(5))
    assert not compared.compare(4, digest)
    assert (compared.verdict, compared.waits) == (api.NOT_COMPARED, True)
    assert not compared.compare(5, digest)
    assert (compared.verdict, compared.waits, compared.seq) == (api.MATCH, False, 5)


def test_one_who_is_always_ahead_is_compared_all_the_same() -> None:
    compared = Compared("table digest")
    seen = set()
    for reached in range(1, 50):
        compared.hear(reached + 10, digest(reached + 10))
        compared.compare(reached, digest)
        seen.add(compared.seq)
        assert compared.verdict == api.NOT_COMPARED
    assert seen == {0, 11, 21, 31, 41}
    assert compared.match


def test_a_difference_stands_until_a_later_digest_agrees() -> None:
    compared = Compared("state digest")
    compared.hear(7, digest(99))
    assert compared.compare(10, digest)
    assert str(compared.difference) == (
        f"state digest at seq 7 is {digest(99).hex()}, this replica has {digest(7).hex()}"
    )
    compared.hear(3, digest(3))  # it began again before that place
    assert not compared.compare(10, digest)
    assert compared.verdict == api.DIFFERS
    compared.hear(20, digest(20))
    assert not compared.compare(10, digest)
    assert compared.verdict == api.DIFFERS  # not compared yet
    assert compared.compare(20, digest)
    assert (compared.verdict, compared.difference) == (api.MATCH, None)


def test_one_who_goes_back_is_compared_from_there_on() -> None:
    """After an older backup was put back, or one wrong report: the log may never reach what was waited for."""
    compared = Compared("state digest")
    compared.hear(1000, digest(1000))
    compared.compare(10, digest)
    compared.hear(9, digest(99))
    assert compared.compare(10, digest)
    assert (compared.verdict, compared.waits) == (api.DIFFERS, False)


def test_what_is_passed_over_is_known_to_be() -> None:
    compared = Compared("state digest")
    assert not compared.passed_over
    compared.hear(7, digest(7))
    assert not compared.passed_over
    compared.compare(10, lambda seq: None)
    assert compared.passed_over
    compared.hear(10, digest(10))
    compared.compare(10, digest)
    assert not compared.passed_over


def test_what_is_no_longer_remembered_is_not_compared() -> None:
    compared = Compared("state digest")
    compared.hear(7, digest(99))
    assert not compared.compare(10, lambda seq: None)
    assert (compared.verdict, compared.waits) == (api.NOT_COMPARED, False)


nodes = st.sampled_from(("a", "b", "c"))
events = st.lists(st.tuples(st.integers(0, 99), st.dictionaries(nodes, st.integers(0, 9))), max_size=40)


@given(events, st.integers(1, 12), st.integers(1, 20), st.integers(1, 1000))
def test_digests_by_seq(history: list[tuple[int, dict[str, int]]], most: int, most_own: int, first: int) -> None:
    digests = TableDigests(most, most_own)
    digests.begin(first, 7, {"a": 1})
    own, expected = {"a": 1}, {first: (7, {"a": 1})}
    skipped = set()
    for seq, (shared, changed) in enumerate(history, first + 1):
        if shared % 4 == 0:
            digests.skip()
            skipped.add(seq)
        else:
            digests.add(shared, changed)
            own = own | changed
        expected[seq] = shared, own
        assert len(digests._shared) <= most
        assert digests._own_parts == sum(map(len, digests._own.values())) <= max(most_own, 3)
        assert (digests.first_seq <= seq) and (seq == digests.seq)
    for seq, (shared, parts) in expected.items():
        for node in ("a", "b", "c", "d"):
            wanted = digest_of(shared + parts.get(node, 0)) if seq >= digests.first_seq else None
            wanted = None if seq in skipped else wanted
            assert digests.at(node, seq) == wanted
    assert digests.at("a", first + len(history) + 1) is None
