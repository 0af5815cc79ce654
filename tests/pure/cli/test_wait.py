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


def test_no_node_that_is_up_is_not_well() -> None:
    with pytest.raises(Failure, match="no node is up"):
        wait(done=False, down=["node1", "node2"])


def test_a_node_that_is_down_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    wait(done=True, down=["node1"])
    assert "node node1 is down and was not waited for" in capsys.readouterr().err


def test_a_node_that_is_behind_is_named() -> None:
    with pytest.raises(Failure, match="behind: node2"):
        wait(done=False, down=["node1"], behind=[pb.NodeStatus(name="node2", seq=3)])
