"""One command being decided: its events so far, each already folded so that the next rule sees it."""

from google.protobuf.message import Message

from kilim.controlplane.decide.node_terms import NodeTerms
from kilim.controlplane.decide.prefixes import PrefixTable
from kilim.controlplane.decide.view import View
from kilim.model.state import Change, State
from kilim.v1 import events_pb2 as pb

_FIELD_OF_BODY: dict[str, str] = {
    field.message_type.name: field.name  # type: ignore[union-attr]  # every body is a message
    for field in pb.Event.DESCRIPTOR.oneofs_by_name["body"].fields
}


class NotAtOnce(Exception):
    """The decision takes more steps than it was given."""


class Draft:
    """`cause` goes into every event from now on; the writer adds time and actor."""

    def __init__(self, view: View, cause: str = "", most_steps: int | None = None) -> None:
        self.view = view
        self.cause = cause
        self._steps_left = most_steps
        self.events: list[pb.Event] = []
        self.changes: list[Change] = []
        self.preparations = 0  # events at the beginning that mean nothing before the others stand
        self.prefixes_to_come = PrefixTable()  # of policies that this command brings
        self.node_terms_to_come = NodeTerms()

    @property
    def state(self) -> State:
        return self.view.state

    def step(self) -> None:
        """Counts what takes about as long as an event. Raises NotAtOnce."""
        if self._steps_left is not None:
            if not self._steps_left:
                raise NotAtOnce
            self._steps_left -= 1

    def emit(self, body: Message) -> None:
        """`body` is one of the messages of Event's oneof."""
        self.step()
        event = pb.Event(cause=self.cause)
        getattr(event, _FIELD_OF_BODY[body.DESCRIPTOR.name]).CopyFrom(body)
        self.events.append(event)
        self.changes += self.view.try_event(event)
