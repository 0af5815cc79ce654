"""Logs of older versions mean today what they meant then (I2): state, tables and snapshots, to the digest.

One that fails here is not to be recorded again: the fold, an upcaster or the tables no longer read what users have.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from kilim.cli.history.rebuild import moment_at, steps
from kilim.cli.history.segments import SegmentHistory
from kilim.kvstore.segments import SegmentDirectory
from kilim.model.desired import desired_tables
from kilim.model.node_tables import NodeTables
from kilim.v1.events_pb2 import Event

LOGS = sorted(path for path in (Path(__file__).parents[2] / "data" / "logs").iterdir() if path.is_dir())
each_log = pytest.mark.parametrize("directory", LOGS, ids=lambda path: path.name)


def expected(directory: Path) -> dict[int, Any]:
    found = json.loads((directory / "expected.json").read_text())
    return {int(seq): values for seq, values in found.items()}


@each_log
def test_every_event_folds_to_what_it_was(directory: Path) -> None:
    source, wanted = SegmentHistory([directory]), expected(directory)
    assert source.span().first_seq == 1 and source.span().last_seq == max(wanted)
    moment = moment_at(source, 0)
    nodes = {name: NodeTables(name) for name in wanted[max(wanted)]["tables"]}
    for step in steps(source, moment, max(wanted)):
        for tables in nodes.values():
            tables.update(moment.state, step.changes)
        if step.seq in wanted:
            assert step.chain.hex() == wanted[step.seq]["chain"], step.seq
            assert moment.state.digest.hex() == wanted[step.seq]["state_digest"], step.seq
            assert {name: each.digest.hex() for name, each in nodes.items()} == wanted[step.seq]["tables"], step.seq


@each_log
def test_its_snapshot_is_read_and_gone_on_from(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segments, wanted = SegmentDirectory([directory]), expected(directory)
    taken = segments.snapshots()[0].seq
    later = [seq for seq in wanted if seq >= taken]
    assert len(later) > 1 and not segments.broken_snapshots
    for seq in later:
        moment = moment_at(SegmentHistory([directory]), seq)
        assert (moment.state.digest.hex(), moment.chain.hex()) == (wanted[seq]["state_digest"], wanted[seq]["chain"])
        for name, digest in wanted[seq]["tables"].items():
            assert desired_tables(moment.state, name).digest().hex() == digest
    assert capsys.readouterr().err == ""  # no snapshot was passed over


def test_every_kind_of_event_stands_in_some_log() -> None:
    """Whoever adds an event adds a recorded log that has it."""
    recorded: set[str | None] = set()
    for directory in LOGS:
        for commit in SegmentDirectory([directory]).commits(1):
            recorded |= {Event.FromString(each).WhichOneof("body") for each in commit.records if each[:1] != b"\xff"}
    bodies = {field.name for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert recorded >= bodies | {None}  # None: what no version knows
