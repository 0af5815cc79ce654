"""Commits out of decided commands: sizes, order, and what may be torn."""

from __future__ import annotations

from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.packing import PART_BYTES_MAX, check_size, pack
from kilim.kvstore.commit import CHAIN_START, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, encode_commit
from kilim.model.nouns import Namespace
from tests.pure.controlplane.worlds import apply, node, policy


def test_everything_small_is_one_commit() -> None:
    parts = pack([("a", [b"1", b"2"]), ("b", []), ("c", [b"3"])])
    assert [(part.records, part.answers) for part in parts] == [([b"1", b"2", b"3"], ["a", "b", "c"])]


def test_nothing_to_append_is_one_part_with_the_answers() -> None:
    parts = pack([("a", list[bytes]()), ("b", [])])
    assert [(part.records, part.answers) for part in parts] == [([], ["a", "b"])]


def test_commands_stay_whole_where_they_fit() -> None:
    big = [bytes(PART_BYTES_MAX // 4)] * 3
    parts = pack([("a", big), ("b", big), ("c", [b"x"])])
    assert [part.answers for part in parts] == [["a"], ["b", "c"]]
    for part in parts:
        assert len(encode_commit(1 << 40, CHAIN_START, part.records, "x" * 64).encoded) < COMMIT_BYTES_MAX


def test_what_fits_nowhere_is_spread_and_answered_at_its_end() -> None:
    parts = pack([("a", [b"x"]), ("b", [b"y"] * (COMMIT_RECORDS_MAX * 2)), ("c", [b"z"])])
    assert [len(part.records) for part in parts] == [1, COMMIT_RECORDS_MAX, COMMIT_RECORDS_MAX, 1]
    assert [part.answers for part in parts] == [["a"], [], ["b"], ["c"]]
    assert [record for part in parts for record in part.records] == [b"x"] + [b"y"] * (COMMIT_RECORDS_MAX * 2) + [b"z"]


def test_only_one_object_at_a_time_may_be_torn() -> None:
    many = [b"y"] * (COMMIT_RECORDS_MAX + 1)
    assert check_size(apply(Namespace("a")), many) is None
    assert isinstance(check_size(apply(Namespace("a"), policy("p")), many), Refusal)
    assert isinstance(check_size(node(), many), Refusal)
    assert isinstance(check_size(apply(Namespace("a")), [bytes(COMMIT_BYTES_MAX)]), Refusal)
    assert check_size(apply(Namespace("a"), policy("p")), many[:-1]) is None
