"""States of the past: from the best snapshot, past broken ones, by number and by time."""

import dataclasses

import pytest

from kilim.cli.failure import BadUsage, Failure
from kilim.cli.history.rebuild import changes, earliest_moment, moment_at, seq_at, state_at, steps
from kilim.cli.history.times import format_time, parse_milliseconds
from kilim.kvstore.errors import LogBroken, Trimmed
from kilim.model.state import State
from tests.pure.cli.held import HeldHistory, base_at, commits_of, event

TIMES = [10, 20, 30, 25, 40, 50, 50, 60, 70, 80]  # one clock is behind the other
RECORDS = [event(ms, namespace_labelled={"namespace": {"name": f"n{ms}-{n}"}}) for n, ms in enumerate(TIMES)]
COMMITS = commits_of(RECORDS)


def test_every_seq_of_a_commit_can_be_asked_for() -> None:
    source = HeldHistory(COMMITS)
    assert [len(state_at(source, seq).namespaces) for seq in range(11)] == list(range(11))
    assert state_at(source).seq == 10
    assert moment_at(source, 10).chain == COMMITS[-1].chain_after
    assert moment_at(source, 6).chain == COMMITS[1].chain_after


def test_the_newest_snapshot_is_where_reading_begins() -> None:
    source = HeldHistory(COMMITS, [base_at(COMMITS, 3), base_at(COMMITS, 6)])
    assert moment_at(source, 8)[1:] == moment_at(HeldHistory(COMMITS), 8)[1:]
    assert source.asked == [(7, 8)]
    trimmed = HeldHistory(COMMITS[2:], [base_at(COMMITS, 6)])
    assert state_at(trimmed, 6).digest == state_at(HeldHistory(COMMITS), 6).digest


def test_a_broken_snapshot_is_passed_over_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    whole = state_at(HeldHistory(COMMITS), 10)
    false_digest = dataclasses.replace(base_at(COMMITS, 9), state_digest=bytes(32))
    false_chain = dataclasses.replace(base_at(COMMITS, 6), chain=bytes(32))
    source = HeldHistory(COMMITS, [base_at(COMMITS, 3), false_chain, false_digest])
    assert state_at(source, 10).digest == whole.digest
    assert source.asked == [(7, 10), (4, 10)]
    told = capsys.readouterr().err
    assert "snapshot 9 broken" in told and "snapshot 6 broken" in told


def test_following_all_that_is_held_begins_at_its_oldest_whole_snapshot() -> None:
    assert earliest_moment(HeldHistory(COMMITS, [base_at(COMMITS, 3)]), 8).state.seq == 0
    bases = [dataclasses.replace(base_at(COMMITS, 3), state_digest=bytes(32)), base_at(COMMITS, 6), base_at(COMMITS, 9)]
    assert earliest_moment(HeldHistory(COMMITS[1:], bases), 9).state.seq == 6
    assert earliest_moment(HeldHistory(COMMITS[2:], [base_at(COMMITS, 3), base_at(COMMITS, 6)]), 6).state.seq == 6
    with pytest.raises(Trimmed):
        earliest_moment(HeldHistory(COMMITS[2:], [base_at(COMMITS, 3), base_at(COMMITS, 9)]), 8)


def test_what_is_not_held_is_said() -> None:
    with pytest.raises(Failure, match="event 11 has not happened: the log ends at event 10"):
        state_at(HeldHistory(COMMITS), 11)
    with pytest.raises(Trimmed, match="the log begins at seq 4"):
        state_at(HeldHistory(COMMITS[1:]), 8)
    with pytest.raises(LogBroken):
        state_at(HeldHistory([COMMITS[0], COMMITS[2], COMMITS[3]]), 9)


def test_changes_come_event_by_event() -> None:
    source = HeldHistory(COMMITS)
    state = state_at(source, 4)
    for seq, happened, changed in changes(source, state, 7):
        assert state.seq == seq and len(state.namespaces) == seq
        assert [change.key for change in changed] == [happened.namespace_labelled.namespace.name]
    assert state.seq == 7
    with pytest.raises(LogBroken):
        list(steps(source, moment_at(HeldHistory(COMMITS), 4)._replace(chain=bytes(32)), 7))


@pytest.mark.parametrize(
    ("text", "seq"),
    [
        ("7", 7),
        ("1970-01-01T00:00:00.0109Z", 1),
        ("1970-01-01T00:00:00.026Z", 4),
        ("1970-01-01T00:00:00.030Z", 4),
        ("1970-01-01T01:00:00.050+01:00", 7),
        ("2026-11-22T14:03:00Z", 10),
    ],
)
def test_a_place_in_history_is_a_number_or_a_time(text: str, seq: int) -> None:
    assert seq_at(HeldHistory(COMMITS), text, "--at") == seq


def test_a_time_is_found_beyond_the_first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilim.cli.history.rebuild.SEARCH_EVENTS", 2)
    assert seq_at(HeldHistory(COMMITS), "1970-01-01T00:00:00.020Z", "--at") == 2


def test_places_that_are_none() -> None:
    for text in ("soon", "-1", "2026-11-22Z", "2026-11-22T14:03:00", "2026-13-22T14:03:00Z", "٣"):
        with pytest.raises(BadUsage, match="^--at: .* must be an event's number or a time such as"):
            seq_at(HeldHistory(COMMITS), text, "--at")
    with pytest.raises(BadUsage, match="^--at: must be at least 1, the first event$"):
        seq_at(HeldHistory(COMMITS), "0", "--at")
    with pytest.raises(Failure, match="^--at: event 11 has not happened: the log ends at event 10$"):
        seq_at(HeldHistory(COMMITS), "11", "--at")
    with pytest.raises(Failure, match="^--at: 1970-01-01T00:00:00.009Z is before the first event$"):
        seq_at(HeldHistory(COMMITS), "1970-01-01T00:00:00.009Z", "--at")
    with pytest.raises(Failure, match="^--at: .* is before every event that is held: the first is event 4$"):
        seq_at(HeldHistory(COMMITS[1:]), "1970-01-01T00:00:00Z", "--at")


def test_times_are_exact_to_the_millisecond_both_ways() -> None:
    for ms in (0, 999, 1_795_356_180_047, 1_795_356_180_001, -1, 253_402_300_799_999):
        assert parse_milliseconds(format_time(ms * 10**6 + 999_999)) == ms
    assert format_time(1_795_356_180_047_999_999) == "2026-11-22T14:03:00.047Z"
    assert format_time(2**63 - 1) == "2262-04-11T23:47:16.854Z"


def test_a_date_alone_is_its_midnight_in_utc() -> None:
    assert parse_milliseconds("2026-11-22") == parse_milliseconds("2026-11-22T00:00:00Z")
    for text in ("2026-11-22Z", "2026-11-22T14:03:00", "2026-13-01", "2026-11"):
        with pytest.raises(ValueError):
            parse_milliseconds(text)


def test_an_empty_state_is_event_0() -> None:
    assert state_at(HeldHistory(COMMITS), 0).digest == State().digest
