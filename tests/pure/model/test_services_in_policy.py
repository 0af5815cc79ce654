"""What toServices and the API servers select, by the verdicts that come of it; expectations from Cilium's documents."""

from typing import Any

import pytest

from kilim.model.identity import FIRST_NODE, NODE_LABEL
from kilim.model.nouns import Node, node_to_pb
from kilim.model.policy_use import selector_uses
from kilim.v1 import events_pb2 as pb
from tests.pure.model.test_cilium_policy import DB, EVERYBODY, HOST, INSIDE, NODES, OUTSIDE, Net, number, policy

OUT1 = OUTSIDE["out1"]
OUT2 = OUTSIDE["out2"]


class World(Net):
    """Namespace a: services `web` (its pods), `out` (out1, and a pod's address); b: `web`, and another `out` (out2)."""

    def __init__(self, *policies: object) -> None:
        super().__init__(*policies)
        for namespace, address in (("a", OUT1), ("b", OUT2)):
            self.cluster.service(f"{namespace}/web", {"app": "web"}, {"tier": "front"})
            self.cluster.service(f"{namespace}/out", None, {"side": namespace})
            self.cluster.slice(f"{namespace}/out-1", "out", address, "10.0.2.1")
        self.make_tables()

    def tell_apart(self, name: str) -> None:
        """A node whose address a policy names: the control plane gives it an identity with a label that says so."""
        ip = NODES[name]
        identity = self.cluster.identity((f"cidr:{ip}/32", NODE_LABEL), FIRST_NODE)
        node = node_to_pb(Node(name, number(ip), identity=identity))
        self.cluster.happen(node_updated=pb.NodeUpdated(node=node))
        self.make_tables()


def named(name: str, namespace: str | None = None) -> dict[str, Any]:
    return {"k8sService": {"serviceName": name} | ({} if namespace is None else {"namespace": namespace})}


def labelled(namespace: str | None = None, **selector: Any) -> dict[str, Any]:
    return {"k8sServiceSelector": {"selector": selector} | ({} if namespace is None else {"namespace": namespace})}


def key(name: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": name, "operator": operator, "values": list(values)}


SERVICES: list[tuple[list[dict[str, Any]], set[str]]] = [
    ([named("web", "a")], {"a/web"}),
    ([named("web", "b")], {"b/web"}),
    ([named("web")], INSIDE),
    ([named("web", "")], INSIDE),
    ([named("web", "c")], set()),
    ([named("nobody", "a")], set()),
    ([named("out", "a")], {"out1"}),
    ([named("out", "a"), named("web", "b")], {"out1", "b/web"}),
    ([named("out")], {"out1", "out2"}),
    ([labelled()], EVERYBODY - {"n1", "n2", "out6"}),
    ([labelled("a")], {"a/web", "out1"}),
    ([labelled(matchLabels={"tier": "front"})], INSIDE),
    ([labelled(matchLabels={"k8s:tier": "front"})], INSIDE),
    ([labelled(matchLabels={"any:side": "a"})], {"out1"}),
    ([labelled(matchLabels={"reserved:host": ""})], set()),
    ([labelled(matchExpressions=[key("side", "In", "a", "b")])], {"out1", "out2"}),
    ([labelled("b", matchExpressions=[key("side", "NotIn", "b")])], {"b/web"}),
    ([labelled("b", matchLabels={"side": "a"})], set()),
]


@pytest.mark.parametrize("kind", ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"])
@pytest.mark.parametrize(("references", "expected"), SERVICES)
def test_whom_services_select(kind: str, references: list[dict[str, Any]], expected: set[str]) -> None:
    went = World(policy(kind, spec=DB | {"egress": [{"toServices": references}]}))
    assert (went.receivers_of(), went.senders_to()) == (expected, EVERYBODY)
    everybody = [{"toEntities": ["all"]}]
    deny = World(policy(kind, spec=DB | {"egress": everybody, "egressDeny": [{"toServices": references}]}))
    assert deny.receivers_of() == EVERYBODY - expected
    ports = {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
    on_port = World(policy(kind, spec=DB | {"egress": [{"toServices": references, **ports}]}))
    assert (on_port.receivers_of(), on_port.receivers_of(port="tcp81")) == (expected, set())


@pytest.mark.parametrize(
    "rule",
    [{"Entities": ["kube-apiserver"]}, {"Endpoints": [{"matchLabels": {"reserved:kube-apiserver": ""}}]}],
)
def test_api_servers_are_outside_or_other_nodes(rule: dict[str, Any]) -> None:
    came, went = ({f"{word}{each}": value for each, value in rule.items()} for word in ("from", "to"))
    net = World(policy(spec=DB | {"ingress": [came], "egress": [went]}))
    assert (net.senders_to(), net.receivers_of()) == (HOST, set())
    net.cluster.slice("default/kubernetes", "kubernetes", OUT2, "192.168.0.1", "192.168.0.2", "10.0.2.1")
    net.tell_apart("n2")
    assert (net.senders_to(), net.receivers_of()) == ({"out2", "n2"} | HOST, {"out2", "n2"})
    net.cluster.slice("default/kubernetes", "kubernetes", OUT1)
    net.cluster.service("default/kubernetes", {"app": "web"})
    net.make_tables()
    assert (net.senders_to(), net.receivers_of()) == ({"out1"} | HOST, {"out1"})


def test_the_cluster_has_its_api_servers_inside() -> None:
    net = World(policy(spec=DB | {"egress": [{"toEntities": ["cluster"]}]}))
    net.cluster.slice("default/kubernetes", "kubernetes", OUT2)
    net.make_tables()
    assert net.receivers_of() == INSIDE | {"n1", "n2", "out2"}


def test_selectors_in_use_name_services() -> None:
    references = [named("web", "a"), named("out"), labelled("a", matchLabels={"side": "a"}), labelled()]
    net = World(policy(spec=DB | {"egress": [{"toServices": references}, {"toEntities": ["kube-apiserver"]}]}))
    state = net.cluster.state
    found = {use.selector: use.identities for use in selector_uses(state)}
    web = state.endpoints["a/web"].identity
    assert found["service a/web"] == (web,)
    assert len(found["services out of all namespaces"]) == 3  # out1, out2 and the pod's address, which is nobody's
    assert found["services with side=a in a"] != ()
    assert web in found["services of all namespaces"]
    assert found["kube-apiserver"] == ()
