"""The state as it would be after a command, decided as for real; nothing is appended anywhere."""

from collections.abc import Iterator

from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import Command, ObjectsChanged
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.fold import fold_event
from kilim.model.labels import CLUSTER, label_map
from kilim.model.state import State, key_to_bytes


def state_after(state: State, command: Command) -> tuple[State, ObjectsChanged]:
    """Another state; the given one stays as it is. Raises Refusal as the command would be refused."""
    (outcome,) = decide_batch(View(state, Defaults(cluster_of(state))), [command])
    if isinstance(outcome, Refusal):
        raise outcome
    after = State()
    after.load(_records(state), state.seq)
    for event in outcome.events:
        fold_event(after, event)
    assert isinstance(outcome.result, ObjectsChanged)
    return after, outcome.result


def cluster_of(state: State) -> str:
    """The name that the cluster's identities bear; the usual one where there are none."""
    for identity in state.identities.values():
        name = label_map(identity.labels).get(CLUSTER)
        if name is not None:
            return name
    return Defaults().cluster


def _records(state: State) -> Iterator[tuple[str, bytes, bytes]]:
    for table, entries in state.data().items():
        for key, value in entries.items():
            yield table, key_to_bytes(key), value
