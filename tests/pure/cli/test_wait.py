"""What `--wait` makes of the server's answer."""

from typing import Any

import pytest

from kilim.cli.failure import Failure
from kilim.cli.wait import wait_for
from kilim.v1 import controlplane_pb2 as pb


class Answering:
    def __init__(self, answer: pb.WaitResponse) -> None:
        self._answer = answer

    def cluster(self, method: str, request: pb.WaitRequest, timeout_s: float) -> pb.WaitResponse:
        return self._answer


def wait(**answer: Any) -> None:
    wait_for(Answering(pb.WaitResponse(**answer)), 7, 1.0)  # type: ignore[arg-type]


def failure(**answer: Any) -> str:
    with pytest.raises(Failure) as caught:
        wait(done=False, **answer)
    return caught.value.message


def test_no_node_that_is_up_is_not_well() -> None:
    assert failure(down=["node1", "node2"]) == "no node is up: seq 7 is enforced when their agents run again"


def test_a_node_that_is_down_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    wait(done=True, down=["node1"])
    assert capsys.readouterr().err == "warning: node node1 is down and was not waited for\n"


def test_every_node_that_is_behind_is_named_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    slow = pb.NodeStatus(name="node2", up=True, seq=3, last_report_age_ms=12_300)
    ill = pb.NodeStatus(name="node3", up=True, seq=6, errors=["map policy is full", "link eth0 is gone"])
    unheard = pb.NodeStatus(name="node4")
    assert failure(down=["node1"], behind=[slow, ill, unheard]) == (
        "seq 7 is not enforced everywhere after 1s: node node2 is at 3: 4 events behind, last report 12s ago; "
        "node node3 is at 6: map policy is full, link eth0 is gone; "
        "node node4 is at 0: its agent has not been heard by this server yet"
    )
    assert "node1 is down" in capsys.readouterr().err


def test_a_server_that_is_behind_itself() -> None:
    assert failure() == "seq 7 is not enforced everywhere after 1s: the server is behind"
