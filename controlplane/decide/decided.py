"""What the decision of a command that is not refused comes to."""

from dataclasses import dataclass

from kilim.controlplane.decide.command import Result
from kilim.v1 import events_pb2 as pb


@dataclass(frozen=True, slots=True)
class Decided:
    """What happens, and the answer once it has. No events: it is so already.

    The first `preparations` of the events mean nothing before the others stand.
    """

    result: Result
    events: tuple[pb.Event, ...]
    preparations: int = 0
