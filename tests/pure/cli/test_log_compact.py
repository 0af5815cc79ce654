"""What `kilim log compact` prints, and that a member of etcd that was not reached is a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from kilim.cli import log_compact
from kilim.v1 import controlplane_pb2 as pb

ANSWER = pb.CompactResponse(
    snapshot_seq=194,
    first_seq=147,
    revision=95,
    disarmed=True,
    members=[pb.EtcdMember(endpoint="http://a:2379", before_bytes=32 << 20, after_bytes=16 << 20)],
)


class Asked:
    def __init__(self, answer: pb.CompactResponse) -> None:
        self.answer = answer
        self.requests: list[pb.CompactRequest] = []

    def log(self, method: str, request: Any, timeout_s: float) -> pb.CompactResponse:
        assert method == "Compact" and timeout_s > 600  # defragmenting takes minutes
        self.requests.append(request)
        return self.answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked(ANSWER)
    monkeypatch.setattr(log_compact, "connect", lambda servers: asked)
    return asked


def test_it_says_what_is_held_and_how_large_etcd_is(asked: Asked) -> None:
    result = CliRunner().invoke(log_compact.compact, ["--defragment"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "newest snapshot    of event 194",
        "first event held   147",
        "etcd               compacted to revision 95, quota alarm is off",
        "",
        "MEMBER          BEFORE   AFTER",
        "http://a:2379   32 MiB   16 MiB",
    ]
    assert asked.requests[0].defragment


def test_it_says_why_nothing_was_trimmed(asked: Asked) -> None:
    asked.answer = pb.CompactResponse(untrimmed="5 events are held, log-retention-events is 200000")
    lines = CliRunner().invoke(log_compact.compact, []).output.splitlines()
    assert "nothing trimmed    5 events are held, log-retention-events is 200000" in lines


def test_it_prints_data(asked: Asked) -> None:
    result = CliRunner().invoke(log_compact.compact, ["-o", "json"])
    assert json.loads(result.output)["first_seq"] == 147
    assert not asked.requests[0].defragment


def test_a_member_that_was_not_reached_is_a_failure(asked: Asked) -> None:
    asked.answer = pb.CompactResponse(members=[pb.EtcdMember(endpoint="http://a:2379", error="UNAVAILABLE: gone")])
    result = CliRunner().invoke(log_compact.compact, ["--defragment"])
    assert result.exit_code == 1
    assert "http://a:2379: UNAVAILABLE: gone" in result.output
    assert "newest snapshot    none" in result.output
