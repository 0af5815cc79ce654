"""What the writer counts, kept where `metrics.py` reads it."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from kilim.controlplane.decide.refusal import Refusal
from kilim.kvstore.errors import NoSpace, OutcomeUnknown, Unavailable

APPEND_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
DONE, FAILED, GIVEN_UP, BUSY = "done", "failed", "given_up", "busy"
_OUTCOMES: dict[type[BaseException], str] = {
    Refusal: "refused",
    NoSpace: "no_space",
    OutcomeUnknown: "unknown",
    Unavailable: "unavailable",
}
OUTCOMES = (DONE, *_OUTCOMES.values(), BUSY, GIVEN_UP, FAILED)


class Counters:
    """One set per replica, with its registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.append_seconds = Histogram(
            "kilim_append_seconds",
            "Duration of one append to the log, from the request to etcd's answer.",
            buckets=APPEND_BUCKETS_S,
            registry=registry,
        )
        self.append_events = Counter("kilim_append_events", "Events that this replica appended.", registry=registry)
        self.append_conflicts = Counter(
            "kilim_append_conflicts", "Appends that another replica was faster than.", registry=registry
        )
        commands = Counter("kilim_commands", "Commands answered, by what came of them.", ["outcome"], registry=registry)
        self.commands = {outcome: commands.labels(outcome) for outcome in OUTCOMES}

    def count_failure(self, error: BaseException) -> None:
        outcome = next((name for kind, name in _OUTCOMES.items() if isinstance(error, kind)), FAILED)
        self.commands[outcome].inc()
