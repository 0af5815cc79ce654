"""Commits as values: what is encoded is what is decoded, and nothing that was changed passes for whole."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.kvstore.commit import (
    CHAIN_START,
    COMMIT_BYTES_MAX,
    COMMIT_RECORDS_MAX,
    Commit,
    chain_next,
    decode_commit,
    encode_commit,
    split_records,
    verify_commit,
)
from kilim.kvstore.cursor import Cursor
from kilim.kvstore.errors import LogBroken, TooLarge

some_records = st.lists(st.binary(max_size=64), min_size=1, max_size=8)


def test_chain_is_blake2b_of_chain_and_record() -> None:
    assert chain_next(CHAIN_START, b"x") == blake2b(bytes(32) + b"x", digest_size=32).digest()


@given(some_records, st.integers(min_value=1, max_value=2**63))
def test_decode_gives_what_was_encoded(records: list[bytes], first_seq: int) -> None:
    commit = encode_commit(first_seq, CHAIN_START, records, "id")
    assert decode_commit(commit.encoded) == commit
    assert commit.last_seq == first_seq + len(records) - 1
    verify_commit(commit, first_seq, CHAIN_START)


@given(some_records, st.data())
def test_any_changed_record_breaks_the_chain(records: list[bytes], data: st.DataObject) -> None:
    commit = encode_commit(1, CHAIN_START, records)
    index = data.draw(st.integers(0, len(records) - 1))
    changed = (*records[:index], records[index] + b"!", *records[index + 1 :])
    with pytest.raises(LogBroken, match="chain"):
        verify_commit(dataclasses.replace(commit, records=changed), 1, CHAIN_START)


def _commit() -> Commit:
    return encode_commit(5, chain_next(CHAIN_START, b"4"), [b"5", b"6"])


@pytest.mark.parametrize(("expected", "word"), [(4, "gap"), (6, "repeat")])
def test_verify_names_gap_and_repeat(expected: int, word: str) -> None:
    commit = _commit()
    with pytest.raises(LogBroken, match=word) as broken:
        verify_commit(commit, expected, commit.chain_before)
    assert broken.value.seq == expected


def test_verify_names_a_chain_that_does_not_follow() -> None:
    with pytest.raises(LogBroken, match="follows chain") as broken:
        verify_commit(_commit(), 5, CHAIN_START)
    assert broken.value.seq == 5


def test_bytes_that_are_no_commit() -> None:
    with pytest.raises(LogBroken, match="not a commit"):
        decode_commit(b"\xff\xff\xff")


@given(st.lists(st.integers(min_value=0, max_value=400_000), max_size=20))
def test_split_keeps_order_and_fits(sizes: list[int]) -> None:
    records = [bytes([n]) * size for n, size in enumerate(sizes)]
    groups = list(split_records(records))
    assert [record for group in groups for record in group] == records
    assert all(len(encode_commit(2**63, CHAIN_START, group, "x" * 40).encoded) < COMMIT_BYTES_MAX for group in groups)


def test_split_bounds_the_number_of_records() -> None:
    groups = list(split_records([b""] * (COMMIT_RECORDS_MAX + 1)))
    assert [len(group) for group in groups] == [COMMIT_RECORDS_MAX, 1]


def test_split_refuses_a_record_that_fits_no_commit() -> None:
    with pytest.raises(TooLarge):
        list(split_records([bytes(COMMIT_BYTES_MAX)]))


@given(st.lists(some_records, min_size=1, max_size=5), st.data())
def test_a_reader_may_start_anywhere(groups: list[list[bytes]], data: st.DataObject) -> None:
    chains, commits = [CHAIN_START], []
    for group in groups:
        commits.append(encode_commit(len(chains), chains[-1], group))
        for record in group:
            chains.append(chain_next(chains[-1], record))
    start = data.draw(st.integers(1, len(chains) - 1))
    cursor = Cursor(start, chains[start - 1])
    for commit in (one for one in commits if one.last_seq >= start):
        cursor.advance(commit)
    assert (cursor.next_seq, cursor.chain) == (len(chains), chains[-1])


def test_a_reader_in_the_middle_holds_the_commit_against_its_chain() -> None:
    commit = encode_commit(1, CHAIN_START, [b"1", b"2", b"3"])
    with pytest.raises(LogBroken, match="what we hold") as broken:
        Cursor(3, bytes([1]) * 32).advance(commit)
    assert broken.value.seq == 3


def test_agents_get_commits_without_grpc() -> None:
    program = "import sys, kilim.kvstore.commit, kilim.kvstore.errors; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
