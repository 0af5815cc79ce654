"""Records are explained by the rows that decided: as the trace says, of replies too, and by nobody where policy says
otherwise by now."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.facts import StateFacts
from kilim.model.fold import fold_event
from kilim.model.reach import Reach
from kilim.model.record_rules import REASONS, Recorded, RecordRules
from kilim.model.rules import Origin
from kilim.model.state import State
from kilim.model.tables import EGRESS, INGRESS
from kilim.model.trace import decision
from kilim.model.verdict import POLICY_DENIED, POLICY_DENY
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cluster import Cluster
from tests.pure.model.histories import histories
from tests.pure.model.test_trace import PROTOCOL_PORTS

TCP = 6


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, st.sampled_from(PROTOCOL_PORTS))
def test_as_the_trace_says(history: list[pb.Event], l4: tuple[int, int]) -> None:
    state = State()
    for event in history:
        fold_event(state, event)
    rules, reach = RecordRules(StateFacts(state)), Reach(state)
    own = [number for number in state.identities if number < 1 << 24][:3]
    for subject, peer in ((one, other) for one in own for other in own):
        for way in (INGRESS, EGRESS):
            reason, origins = decision(reach, subject, way, peer, *l4)
            ends = (peer, subject) if way == INGRESS else (subject, peer)
            ours = (way == EGRESS, way == INGRESS)
            found = rules.of(Recorded(reason, way, *ends, *ours, l4[0], 40000, l4[1]))
            assert found is not None
            if reason != POLICY_DENIED:
                assert found == origins
            else:
                assert all(not each.section for each in found)


def small() -> tuple[Cluster, int, int]:
    cluster = Cluster()
    cluster.node("n1", "192.0.2.1")
    cluster.namespace("x", {})
    web = cluster.pod("x", "web", "n1", "10.0.0.1", {"app": "web"})
    db = cluster.pod("x", "db", "n1", "10.0.0.2", {"app": "db"})
    return cluster, web, db


def policy(cluster: Cluster, name: str, **spec: object) -> None:
    cluster.apply(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "x"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "db"}}, **spec},
        }
    )


def test_default_deny_is_by_those_that_isolate() -> None:
    cluster, web, db = small()
    policy(cluster, "one", ingress=[{}])
    policy(cluster, "two", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "nobody"}}]}])
    policy(cluster, "other-way", egress=[{}])
    rules = RecordRules(StateFacts(cluster.state))
    found = rules.of(Recorded(POLICY_DENIED, INGRESS, web, db, True, True, TCP, 40000, 80))
    assert found == tuple(Origin("CiliumNetworkPolicy", "x", name, "", 0) for name in ("one", "two"))


def test_a_refused_reply_is_explained_by_the_connection_that_it_answers() -> None:
    """db answers from port 80; web's own ingress is open."""
    cluster, web, db = small()
    policy(cluster, "deny", ingressDeny=[{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}])
    rules = RecordRules(StateFacts(cluster.state))
    expected = (Origin("CiliumNetworkPolicy", "x", "deny", "ingressDeny", 0),)
    assert rules.of(Recorded(POLICY_DENY, INGRESS, db, web, True, True, TCP, 80, 40000)) == expected
    assert rules.of(Recorded(POLICY_DENY, INGRESS, web, db, True, True, TCP, 40000, 80)) == expected


def test_nobody_is_named_where_policy_says_otherwise_by_now() -> None:
    cluster, web, db = small()
    rules = RecordRules(StateFacts(cluster.state))
    for reason in REASONS:
        assert rules.of(Recorded(reason, INGRESS, web, db, True, True, TCP, 40000, 80)) is None
