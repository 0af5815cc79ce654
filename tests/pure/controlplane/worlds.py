"""A view to decide on, and the two things that tests do with it: decide, and let it happen."""

from __future__ import annotations

from kilim.controlplane.decide.batch import Outcome, decide_batch
from kilim.controlplane.decide.command import (
    ApplyObjects,
    Command,
    DeleteObjects,
    Document,
    Object,
    Ref,
    RegisterEndpoint,
    RegisterNode,
    Result,
)
from kilim.controlplane.decide.decided import Decided
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.pool import ClusterPool
from kilim.controlplane.decide.refusal import Refusal
from kilim.controlplane.decide.view import Defaults, View
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from kilim.model.state import State


class World:
    def __init__(self, pool: str = "10.244.0.0/16", limits: Limits | None = None) -> None:
        self.view = View(State(), Defaults("default", ClusterPool(pool, 24), limits=limits or Limits()))
        self.bodies: list[str] = []  # names of the events of the last `do`

    @property
    def state(self) -> State:
        return self.view.state

    def decide(self, *commands: Command) -> list[Outcome]:
        """Nothing happens; checks that it does not."""
        before = self.state.digest, sorted(self.state.records()), look_ups(self.view)
        outcomes = decide_batch(self.view, commands)
        assert (self.state.digest, sorted(self.state.records()), look_ups(self.view)) == before
        return outcomes

    def do(self, command: Command) -> Result:
        """Decide and fold. Raises the Refusal."""
        outcome = self.decide(command)[0]
        if isinstance(outcome, Refusal):
            raise outcome
        return self.happen(outcome)

    def happen(self, decided: Decided) -> Result:
        self.bodies = []
        for event in decided.events:
            self.bodies.append(str(event.WhichOneof("body")))
            self.view.fold(self.state.seq + 1, event.SerializeToString())
        return decided.result

    def refusal(self, command: Command) -> Refusal:
        outcome = self.decide(command)[0]
        assert isinstance(outcome, Refusal), outcome
        return outcome


def look_ups(view: View) -> tuple[object, ...]:
    return (
        dict(view.endpoint_at),
        dict(view.addresses_on),
        {node: dict(numbers) for node, numbers in view.endpoints_on.items()},
        {name: set(keys) for name, keys in view.endpoints_in.items()},
        dict(view.node_at),
        dict(view.cidrs_of_node),
        dict(view.cidr_uses),
        dict(view.pod_prefixes.items()),
        {cidr: set(numbers) for cidr, numbers in view.bearers.items()},
        dict(view.cidr_groups.identity_at),
        (view.local_numbers.taken, view.local_numbers.next_free(view.state)),
        (view.cidr_numbers.taken, view.cidr_numbers.next_free(view.state)),
        (view.node_numbers.taken, view.node_numbers.next_free(view.state)),
        (dict(view.node_terms.keys), dict(view.node_terms.prefixes.items())),
        {number: set(names) for number, names in view.nodes_of_identity.items()},
        view.bounds.look_ups(),
    )


def node(name: str = "node1", ip: str = "192.0.2.1", *cidrs: str, ipv6: str = "") -> RegisterNode:
    return RegisterNode(name, ip, cidrs, ipv6=ipv6)


def two_nodes(*commands: Command, limits: Limits | None = None) -> World:
    """And what comes upon them."""
    world = World(limits=limits)
    for command in (node(), node("node2", "192.0.2.2"), *commands):
        world.do(command)
    return world


def endpoint(
    name: str = "db", ip: str = "10.244.0.3", number: int = 1, node: str = "node1", **labels: str
) -> RegisterEndpoint:
    return RegisterEndpoint(node, "shop", name, f"c-{name}", ip, number, tuple(sorted(labels.items())))


def apply(*objects: Object) -> ApplyObjects:
    return ApplyObjects(tuple(Document(each, f"t.yaml: document {n + 1}") for n, each in enumerate(objects)))


def delete(kind: str, name: str, namespace: str = "", ignore_not_found: bool = False) -> DeleteObjects:
    return DeleteObjects((Ref(kind, namespace, name, "t.yaml"),), ignore_not_found)


def cidr_group(name: str, *cidrs: str, **labels: str) -> Policy:
    noun = parse_manifest(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumCIDRGroup",
            "metadata": {"name": name, "labels": labels},
            "spec": {"externalCIDRs": list(cidrs)},
        }
    ).noun
    assert isinstance(noun, Policy)
    return noun


def policy(name: str, *cidrs: str, excepts: tuple[str, ...] = ()) -> Policy:
    blocks = [{"ipBlock": {"cidr": cidr, "except": list(excepts)}} for cidr in cidrs]
    noun = parse_manifest(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"podSelector": {}, "ingress": [{"from": blocks}] if blocks else []},
        }
    ).noun
    assert isinstance(noun, Policy)
    return noun
