"""Kernels are compared each at the event that its node enforced, in one walk over the log."""

import json
from dataclasses import replace

from kilim.cli.history.kernels import Held, compare, result_data, result_lines
from kilim.kvstore.commit import Commit
from kilim.model.address import from_mapped
from kilim.model.fold import fold_record
from kilim.model.node_tables import NodeTables
from kilim.model.state import State
from kilim.model.tables import ROW_BYTES, pack_rows
from kilim.v1 import events_pb2 as pb
from tests.pure.agent.commits import endpoint_added, endpoint_removed, identity_allocated, node_joined
from tests.pure.cli.held import HeldHistory, base_at, commits_of, event


def history() -> list[Commit]:
    records = [node_joined("node1", 0x0A000001), node_joined("node2", 0x0A000002), identity_allocated(300)]
    for number in range(12):
        records.append(endpoint_added(f"p{number}", 0x0A010000 + number, f"node{number % 2 + 1}"))
        if number % 3 == 2:
            records.append(endpoint_removed(f"p{number - 1}"))
    return commits_of(records)


def held_at(commits: list[Commit], node: str, seq: int) -> Held:
    state, tables = State(), NodeTables(node)
    for commit in commits:
        for number, record in enumerate(commit.records, commit.first_seq):
            if number <= seq:
                fold_record(state, number, record)
    tables.rebuild(state)
    return Held(node, seq, tables.digest, {table: pack_rows(table, tables.tables) for table in ROW_BYTES})


def test_nodes_that_are_at_different_events() -> None:
    commits = history()
    held = [held_at(commits, node, seq) for node, seq in (("node1", 18), ("node2", 5), ("node1", 9), ("node2", 18))]
    source = HeldHistory(commits, [base_at(commits, 3)])
    results = list(compare(source, held))
    assert [(result.node, result.seq, result.outcome) for result in results] == [
        ("node2", 5, "ok"), ("node1", 9, "ok"), ("node1", 18, "ok"), ("node2", 18, "ok"),
    ]  # fmt: skip


def test_a_row_that_is_there_twice_is_not_clean() -> None:
    commits = history()
    held = held_at(commits, "node1", 18)
    held.packed["subjects"] += held.packed["subjects"][: ROW_BYTES["subjects"]]
    (result,) = compare(HeldHistory(commits), [held])
    assert not result.is_clean and not result.differing and "more than once" in result.outcome


def test_what_is_wrong_beyond_rows_is_not_clean() -> None:
    commits = history()
    drift = tuple(f"endpoints 10.1.0.{n}: found ifindex 7, wanted ifindex 1" for n in range(7))
    (result,) = compare(HeldHistory(commits), [replace(held_at(commits, "node1", 18), local_drift=drift)])
    assert not result.is_clean and not result.differing
    assert result.outcome == f"wrong beyond its rows: {', '.join(drift[:5])} and 2 more"
    assert result_data(result)["local_drift"] == list(drift)


def test_an_endpoint_that_waits_is_said_to() -> None:
    commits = history()
    held = held_at(commits, "node1", 18)
    size = ROW_BYTES["endpoints"]
    ip = from_mapped(held.packed["endpoints"][:16])
    held.packed["endpoints"] = held.packed["endpoints"][size:]
    (result,) = compare(HeldHistory(commits), [replace(held, held_endpoints=frozenset({ip}))])
    assert [one["waits"] for one in result_data(result)["differences"]] == ["for its interface"]
    assert "nothing: waits for its interface" in "\n".join(result_lines([result], []))


def test_what_was_right_an_event_ago_is_wrong_now() -> None:
    commits = history()
    before = held_at(commits, "node1", 17)
    held = Held("node1", 18, held_at(commits, "node1", 18).agent_digest, before.packed)
    (result,) = compare(HeldHistory(commits), [held])
    assert not result.is_clean and result.agent_digest == result.log_digest
    assert {one.since and one.since[0] for one in result.differing} == {18}


def test_policy_rows_that_cannot_be_reached_are_not_said_to_be_missing() -> None:
    commits = commits_of([
        node_joined("node1", 0x0A000001), identity_allocated(300), endpoint_added("p", 0x0A010000, "node1"),
        event(policy_replaced=pb.PolicyReplaced(policy=closed())),
    ])  # fmt: skip
    held = held_at(commits, "node1", 4)
    rows = len(held.packed["policy"]) // ROW_BYTES["policy"]
    assert rows and len(held.packed["subjects"]) == ROW_BYTES["subjects"]
    held.packed["subjects"] = held.packed["policy"] = b""
    (result,) = compare(HeldHistory(commits), [held])
    assert not result.is_clean and result.outcome == "1 row differs"
    (one,) = result_data(result)["differences"]
    assert (one["table"], one["kernel"], one["unreachable_policy_rows"]) == ("subjects", None, rows)
    said = "\n".join(result_lines([result], []))
    assert "nothing: its " in said and "cannot be reached without it" in said


def test_policy_rows_that_are_missing_are_each_named() -> None:
    commits = commits_of([
        node_joined("node1", 0x0A000001), identity_allocated(300), endpoint_added("p", 0x0A010000, "node1"),
        event(policy_replaced=pb.PolicyReplaced(policy=closed())),
    ])  # fmt: skip
    held = held_at(commits, "node1", 4)
    held.packed["policy"] = b""
    (result,) = compare(HeldHistory(commits), [held])
    assert {one["table"] for one in result_data(result)["differences"]} == {"policy"}


def closed() -> pb.Policy:
    return pb.Policy(
        kind="NetworkPolicy", namespace="default", name="closed",
        manifest_json=json.dumps({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "closed", "namespace": "default"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]},
        }),
    )  # fmt: skip
