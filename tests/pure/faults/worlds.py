"""A small world that did everything right, for the checker to accept and for tests to spoil."""

import json
from dataclasses import replace

from kilim.kvstore.commit import CHAIN_START, Commit, encode_commit
from kilim.v1 import events_pb2 as pb
from tests.faults.storm.checker import History
from tests.faults.storm.record import NOT_DONE, OK, UNKNOWN, Operation, Reading, Sample, Sighting
from tests.faults.storm.replay import replay_log

RUN = "run-"
NODE = "node1"


def body(variety: int) -> str:
    return json.dumps({"variety": variety})


def policy(actor: str, name: str, variety: int) -> pb.Event:
    noun = pb.Policy(kind="NetworkPolicy", namespace="shop", name=name, manifest_json=body(variety))
    return pb.Event(actor=actor, policy_replaced=pb.PolicyReplaced(policy=noun))


def removal(actor: str, name: str) -> pb.Event:
    gone = pb.PolicyRemoved(kind="NetworkPolicy", namespace="shop", name=name)
    return pb.Event(actor=actor, policy_removed=gone)


def endpoint(container: str) -> pb.Event:
    noun = pb.Endpoint(namespace="cni", name="p", node=NODE, endpoint_id=3, ip=0x0AF40103, container_id=container)
    return pb.Event(actor=f"node:{NODE}", endpoint_added=pb.EndpointAdded(endpoint=noun))


def log_of(*commits: list[pb.Event]) -> list[Commit]:
    log: list[Commit] = []
    for events in commits:
        seq = log[-1].last_seq + 1 if log else 1
        chain = log[-1].chain_after if log else CHAIN_START
        log.append(encode_commit(seq, chain, [event.SerializeToString(deterministic=True) for event in events]))
    return log


def operation(number: int, name: str, answer: str, seq: int, variety: int | None, at: int) -> Operation:
    """Asked at `at`, answered five later."""
    held = "" if variety is None else body(variety)
    outcome = answer if answer in (NOT_DONE, UNKNOWN) else OK
    action = "" if outcome != OK else answer
    key = ("NetworkPolicy", "shop", name)
    return Operation(f"{RUN}{number}", *key, held, "replica1", at, at + 5, outcome, action, seq)


def right_world() -> History:
    """1 a, 2 b · 3 a changes · 4 a goes · 5 an endpoint · 6 b, of which nobody was told."""
    log = log_of(
        [policy("run-0", "a", 0), policy("run-1", "b", 0)],
        [policy("run-2", "a", 1)],
        [removal("run-3", "a")],
        [endpoint("box")],
        [policy("run-4", "b", 1)],
    )
    history = History(log, RUN)
    history.operations = [
        operation(0, "a", "created", 2, 0, 10),
        operation(1, "b", "created", 2, 0, 11),
        operation(2, "a", "configured", 3, 1, 20),
        operation(20, "a", "unchanged", 3, 1, 21),  # may have seen it first
        operation(3, "a", "deleted", 4, None, 30),
        operation(30, "a", "not found", 4, None, 40),
        Operation("box", "Endpoint", "cni", "p", "", NODE, 41, 49, OK, "added"),
        operation(4, "b", UNKNOWN, 0, 1, 50),
        operation(5, "b", UNKNOWN, 0, 2, 51),
        operation(6, "b", NOT_DONE, 0, 2, 52),
    ]
    chains = replay_log(log).chains
    for at, commit in enumerate(log):
        history.sightings.append(
            Sighting(
                "replica1",
                0,
                60 + at,
                commit.first_seq,
                commit.last_seq,
                chains[commit.first_seq - 1],
                commit.chain_after,
            )
        )
    replay = replay_log(log, {(NODE, 5)})
    history.samples = [
        Sample("replica1", 70, 3, replay.chains[3], replay.state_digests[3]),
        Sample(NODE, 71, 5, b"", replay.state_digests[5], NODE, replay.table_digests[NODE, 5]),
    ]
    history.readings = [Reading("replica2", "NetworkPolicy", 80, 81, 3, ("shop/a", "shop/b"))]
    return history


def spoiled(history: History, of: str, **changes: object) -> History:
    """The same with one operation's note changed."""
    history.operations = [
        replace(each, **changes) if each.actor == of else each  # type: ignore[arg-type]
        for each in history.operations
    ]
    return history
