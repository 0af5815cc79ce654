"""What retired events mean today, so that old logs replay for ever (I2): applied before an event is folded.

1. A body that nothing writes any more keeps its message and its number in events.proto, loses its rule in `fold.py`,
   and gets an upcaster here: from an event with that body to one that says the same with a body of later number.
2. An upcaster is total and deterministic as the fold is (I1): from the event alone, for whatever stands in it.
3. A new field needs none: an event from before it has the field's default, and that must mean what it meant then.
4. Recorded logs (tests/data) are never edited; a version that retires a body adds one in which it stands.
"""

from collections.abc import Callable

from kilim.v1 import events_pb2 as pb

Upcaster = Callable[[pb.Event], pb.Event]

UPCASTERS: dict[str, Upcaster] = {}  # retired body -> what it is today; none has been retired


def upcast(event: pb.Event) -> pb.Event:
    """The same event in the words of today; itself, mostly."""
    while upcaster := UPCASTERS.get(event.WhichOneof("body") or ""):
        event = upcaster(event)
    return event
