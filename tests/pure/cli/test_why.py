"""`kilim why` on a small history: what a reader sees, to the letter, and what is said of bad questions."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kilim.cli.history.source import Base
from kilim.cli.main import main
from kilim.controlplane.decide.batch import decide_batch
from kilim.controlplane.decide.command import (
    ApplyObjects,
    Command,
    DeleteObjects,
    Document,
    Ref,
    RegisterEndpoint,
    RegisterNode,
    RemoveEndpoint,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.view import Defaults, View
from kilim.kvstore.errors import SnapshotBroken
from kilim.model.resource import parse_manifest
from kilim.model.state import State
from tests.pure.cli.held import HeldHistory, base_at, commits_of

SHOWN = Path(__file__).parent / "shown"
START_MS = 1_795_356_180_000  # 2026-11-22T14:03:00Z


class Snapshots(HeldHistory):
    """Snapshots made anew whenever they are asked for, as a snapshot is read once."""

    def __init__(self, records: list[bytes], at: tuple[int, ...] = ()) -> None:
        super().__init__(commits_of(records, 1))
        self.at = at

    def base(self, at_seq: int) -> Base | None:
        seq = max((seq for seq in self.at if seq <= at_seq), default=None)
        return None if seq is None else base_at(self.held, seq)


class Story:
    """A log as the control plane writes it, a second from event to event."""

    def __init__(self) -> None:
        self.view = View(State(), Defaults())
        self.records: list[bytes] = []

    def do(self, actor: str, command: Command) -> int:
        (outcome,) = decide_batch(self.view, [command])
        assert isinstance(outcome, Decided), outcome
        for event in outcome.events:
            event.actor, event.time_ns = actor, (START_MS + 1000 * len(self.records)) * 10**6
            self.records.append(event.SerializeToString())
            self.view.fold(len(self.records), self.records[-1])
        return len(self.records)

    def node(self, number: int) -> None:
        self.do(f"node:n{number}", RegisterNode(f"n{number}", f"192.0.2.{number}", (f"10.0.{number}.0/24",)))

    def pod(self, node: int, name: str, number: int) -> None:
        labels = (("app", name),)
        command = RegisterEndpoint(f"n{node}", "shop", name, "c1", f"10.0.{node}.{number + 1}", number, labels)
        self.do(f"node:n{node}", command)

    def policy(self, name: str, **spec: Any) -> int:
        manifest = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec}
        manifest["metadata"] = {"name": name, "namespace": "shop"}
        return self.do("cli:ann@desk", ApplyObjects((Document(parse_manifest(manifest).noun),)))


def story() -> Story:
    told = Story()
    told.node(1)
    told.node(2)
    told.pod(1, "web", 1)
    told.pod(2, "db", 1)
    told.policy("closed", podSelector={}, policyTypes=["Ingress"])
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    told.policy("db", podSelector={"matchLabels": {"app": "db"}}, ingress=[{"from": [peer], "ports": [{"port": 5432}]}])
    return told


Why = Callable[..., Result]


@pytest.fixture
def why(monkeypatch: pytest.MonkeyPatch) -> Why:
    def ask(history: HeldHistory, *words: str, source: str = "shop/web", to: str = "shop/db") -> Result:
        monkeypatch.setattr("kilim.cli.why.open_history", lambda _: history)
        return CliRunner().invoke(main, ["why", "--from", source, "--to", to, *words])

    return ask


@pytest.mark.parametrize("at", [(), (3,), (4, 7), (8,)])
def test_an_allowed_flow_to_the_letter(why: Why, at: tuple[int, ...]) -> None:
    done = why(Snapshots(story().records, at), "--port", "5432")
    assert done.exit_code == 0, done.output
    assert done.stdout == (SHOWN / "why_allowed.txt").read_text()


def test_a_denied_flow_names_the_policies_that_close(why: Why) -> None:
    done = why(Snapshots(story().records), "--port", "5433")
    assert done.stdout == (SHOWN / "why_denied.txt").read_text()


def test_as_data(why: Why) -> None:
    data = json.loads(why(Snapshots(story().records), "--port", "5432", "-o", "json").stdout)
    assert (data["verdict"], data["reason"], data["seq"]) == ("allowed", None, 8)
    (row,) = data["nodes"][1]["policyRows"]
    assert row["event"] == {
        "seq": 8, "time": "2026-11-22T14:03:07.000Z", "actor": "cli:ann@desk", "cause": "NetworkPolicy shop/db"
    }  # fmt: skip
    assert [(rule["name"], rule["rule"]) for rule in row["rules"]] == [("db", 0)]


def test_what_is_older_than_all_that_is_held(why: Why) -> None:
    history = Snapshots(story().records, (5,))
    base = base_at(history.held, 5)
    records = list(base.records)
    fresh = lambda at_seq: Base(5, base.chain, base.state_digest, iter(records)) if at_seq >= 5 else None  # noqa: E731
    history.base = fresh  # type: ignore[method-assign]
    history.held = [commit for commit in history.held if commit.first_seq > 5]
    done = why(history, "--port", "5432")
    assert done.stdout.splitlines()[5].split()[-4:] == ["<=5", "-", "-", "-"]
    done = why(history, "--port", "22", "--bisect", "--at", "6", to="203.0.113.7")
    assert "so since event 5 or before" in done.stdout


def test_a_snapshot_that_is_broken_is_passed_over(why: Why) -> None:
    class Broken(Snapshots):
        def base(self, at_seq: int) -> Base | None:
            base = super().base(at_seq)
            if base is not None and base.seq == 7:
                raise SnapshotBroken(7, "part 0 is missing")
            return base

    done = why(Broken(story().records, (4, 7)), "--port", "5432")
    assert done.stdout == (SHOWN / "why_allowed.txt").read_text()
    assert "part 0 is missing" in done.stderr


def test_a_snapshot_of_another_history_is_passed_over(why: Why) -> None:
    """As segments of another cluster beside a server give it: whole in itself, of the same pods, and not ours."""
    other = Story()
    for number in (1, 2):
        other.node(number)
    for number in range(4):
        other.policy(f"theirs{number}", podSelector={"matchLabels": {"app": "nobody"}}, policyTypes=["Egress"])
    other.pod(1, "web", 1)
    other.pod(2, "db", 1)
    foreign = commits_of(other.records, 1)
    told = story()
    for number in range(12):
        told.policy(f"noise{number}", podSelector={"matchLabels": {"app": "nobody"}}, policyTypes=["Egress"])
    last = len(told.records)

    class Mixed(Snapshots):
        def base(self, at_seq: int) -> Base | None:
            if at_seq >= last - 2:
                return base_at(self.held, last - 2)
            return base_at(foreign, len(foreign)) if at_seq >= len(foreign) else None

    for words in (["--bisect"], []):
        done = why(Mixed(told.records), "--port", "5432", *words)
        assert done.stdout == why(Snapshots(told.records, (last - 2,)), "--port", "5432", *words).stdout
        assert "the log does not go on from it" in done.stderr


def test_a_node_always_reaches_its_pods(why: Why) -> None:
    told = story()
    told.policy("out", podSelector={}, policyTypes=["Egress"])
    assert "egress at n1: allowed by Kilim itself: a pod reaches its node" in (
        why(Snapshots(told.records), "--port", "80", to="192.0.2.1").stdout
    )


@pytest.mark.parametrize("at", [(), (5,), (8,), (9,)])
def test_bisect_to_the_letter(why: Why, at: tuple[int, ...]) -> None:
    told = story()
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    told.policy("db", podSelector={"matchLabels": {"app": "db"}}, ingress=[{"from": [peer], "ports": [{"port": 5433}]}])
    done = why(Snapshots(told.records, at), "--port", "5432", "--bisect")
    assert done.stdout == (SHOWN / "why_bisect.txt").read_text()
    earlier = why(Snapshots(told.records, at), "--port", "5432", "--bisect", "--at", "7", "-o", "json")
    data = json.loads(earlier.stdout)
    assert (data["event"]["seq"], data["before"]) == (7, "allowed")
    first = why(Snapshots(told.records, at), "--port", "5432", "--bisect", "--at", "6").stdout
    assert "  before   none: no pod shop/db\n  after    allowed\n" in first


def test_bad_questions_are_one_line(why: Why) -> None:
    told = story()
    told.do("node:n2", RemoveEndpoint("n2", "shop", "db"))
    told.do("cli:ann@desk", DeleteObjects((Ref("NetworkPolicy", "shop", "db"),)))
    history = Snapshots(told.records, (8,))

    def line(*words: str, status: int = 1, **ends: str) -> str:
        done = why(history, *words, **ends)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (status, "", 1)
        return done.stderr.strip()

    at, gone = "2026-11-22T14:03:05.000Z, node:n2", "2026-11-22T14:03:08.000Z, node:n2"
    assert line("--port", "1", "--at", "5") == f"error: no pod shop/db as of event 5: it came at event 6 ({at})"
    assert line("--port", "1") == f"error: no pod shop/db as of event 10: it went at event 9 ({gone})"
    assert line("--port", "1", source="shop/wep") == "error: no pod shop/wep as of event 10; there is shop/web"
    assert line("--port", "1", "--at", "99").startswith("error: --at: event 99 has not happened")
    for words, text in (
        (("--port", "0"), "--port: 0 must be from 1 to 65535"),
        ((), "--port: is needed for TCP"),
        (("--protocol", "icmp", "--port", "256"), "--port: 256 must be from 0 to 255, the type of ICMP"),
    ):
        assert line(*words, status=2) == f"error: {text}"
    assert line("--port", "1", status=2, to="db") == 'error: --to: "db" must be NAMESPACE/POD or an IP address'
    assert line("--port", "1", status=2, source="db") == 'error: --from: "db" must be NAMESPACE/POD or an IP address'


def test_an_address_of_nobody_and_a_ping(why: Why) -> None:
    done = why(Snapshots(story().records), "--protocol", "ICMP", to="203.0.113.7")
    assert done.stdout.startswith("allowed\nshop/web -> 203.0.113.7 ICMP type 8, as of event 8\n")
    assert "ipcache     203.0.113.7   no row: identity 2 (world)" in done.stdout
    assert why(Snapshots(story().records), "--port", "80", to="shop/web").stdout.endswith(
        "packets from an endpoint to itself never leave it\n"
    )


def test_who_comes_from_an_address(why: Why) -> None:
    done = why(Snapshots(story().records), "--port", "5432/TCP", source="203.0.113.7")
    verdict, flow = done.stdout.splitlines()[:2]
    assert verdict == "denied: POLICY_DENIED, ingress at n2"
    assert flow == "203.0.113.7 -> shop/db TCP 5432, as of event 8"
    assert "no row: identity 2 (world)" in done.stdout and "egress at" not in done.stdout
    strangers = why(Snapshots(story().records), "--port", "53/UDP", source="203.0.113.7", to="203.0.113.8")
    assert strangers.stdout.endswith("UDP 53, as of event 8\nneither end is an endpoint\n")


def cluster_policy(told: Story, name: str, tier: str, priority: int, **rule: Any) -> None:
    spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, "ingress": [rule]}
    manifest = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "spec": spec}
    told.do("cli:ann@desk", ApplyObjects((Document(parse_manifest(manifest | {"metadata": {"name": name}}).noun),)))


def test_tiers_and_what_they_pass_on_are_named(why: Why) -> None:
    told = story()
    everybody = [{"namespaces": {}}]
    port = [{"tcp": {"destinationPort": {"number": 5432}}}]
    cluster_policy(told, "shops", "Admin", 5, action="Pass", **{"from": everybody}, protocols=port)
    cluster_policy(told, "lockdown", "Admin", 6, action="Deny", **{"from": everybody})
    done = why(Snapshots(told.records), "--port", "5432")
    assert (
        "ingress at n2: allowed by NetworkPolicy shop/db ingress[0], passed on by ClusterNetworkPolicy shops ingress[0]"
        in (done.stdout)
    )
    denied = why(Snapshots(told.records), "--port", "5433")
    assert "ingress at n2: denied by ClusterNetworkPolicy lockdown ingress[0]\n" in denied.stdout
    assert re.search(r"policy +admin \d+ from \d+ .*any port +deny", denied.stdout)
