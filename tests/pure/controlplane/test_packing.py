"""Commits out of decided commands: sizes, order, and what may be torn."""

from __future__ import annotations

from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.packing import PART_BYTES_MAX, SPREAD_RECORDS, check_size, pack
from kilim.kvstore.commit import CHAIN_START, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, encode_commit
from kilim.model.nouns import Namespace
from tests.pure.controlplane.worlds import apply, node, policy


def test_everything_small_is_one_commit() -> None:
    parts = pack([("a", [b"1", b"2"], 0), ("b", [], 0), ("c", [b"3"], 0)])
    assert [(part.records, part.answers) for part in parts] == [([b"1", b"2", b"3"], ["a", "b", "c"])]


def test_nothing_to_append_is_one_part_with_the_answers() -> None:
    parts = pack([("a", list[bytes](), 0), ("b", [], 0)])
    assert [(part.records, part.answers) for part in parts] == [([], ["a", "b"])]


def test_commands_stay_whole_where_they_fit() -> None:
    big = [bytes(PART_BYTES_MAX // 4)] * 3
    parts = pack([("a", big, 0), ("b", big, 0), ("c", [b"x"], 0)])
    assert [part.answers for part in parts] == [["a"], ["b", "c"]]
    for part in parts:
        assert len(encode_commit(1 << 40, CHAIN_START, part.records, "x" * 64).encoded) < COMMIT_BYTES_MAX


def test_what_fits_nowhere_is_spread_and_answered_at_its_end() -> None:
    many = [b"y"] * (5 * SPREAD_RECORDS)
    parts = pack([("a", [b"x"], 0), ("b", many, 0), ("c", [b"z"], 0)])
    assert [len(part.records) for part in parts] == [1, *[SPREAD_RECORDS] * 4, SPREAD_RECORDS + 1]
    assert [part.answers for part in parts] == [["a"], [], [], [], [], ["b", "c"]]
    assert [record for part in parts for record in part.records] == [b"x", *many, b"z"]


def test_only_one_object_at_a_time_may_be_torn() -> None:
    many = [b"y"] * (COMMIT_RECORDS_MAX + 1)
    assert check_size(apply(Namespace("a")), many) is None
    assert isinstance(check_size(apply(Namespace("a"), policy("p")), many), Refusal)
    assert isinstance(check_size(node(), many), Refusal)
    assert isinstance(check_size(apply(Namespace("a")), [bytes(COMMIT_BYTES_MAX)]), Refusal)
    assert check_size(apply(Namespace("a"), policy("p")), many[:-1]) is None


def test_what_only_prepares_may_stand_before_the_rest_which_stays_whole() -> None:
    many = [b"y"] * (COMMIT_RECORDS_MAX + 10)
    several = apply(Namespace("a"), policy("p"))
    assert check_size(several, many, 10) is None
    assert isinstance(check_size(several, many, 9), Refusal)
    parts = pack([("a", [b"x"], 0), ("b", [b"p"] * 10 + many[10:], 10), ("c", [b"z"], 0)])
    assert [set(part.records) for part in parts] == [{b"x"}, {b"p"}, {b"y"}, {b"z"}]
    assert [part.answers for part in parts] == [["a"], [], ["b"], ["c"]]
