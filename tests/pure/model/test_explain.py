"""Explanations: they agree with the verdict on every case, and every entry is a row of the node that it names."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.explain import Explanation, Flow, Place, explain
from kilim.model.facts import StateFacts
from kilim.model.fold import fold_event
from kilim.model.protocols import PROTOCOLS
from kilim.model.settings import ALWAYS
from kilim.model.state import State
from kilim.model.tables import ALLOW, DENY, EGRESS, NORMAL, PASS, Tables, action_of, tier_flag
from kilim.model.verdict import ALLOWED, POLICY_DENIED, POLICY_DENY, verdict
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import ADDRESSES, NODES, histories
from tests.pure.model.test_policy_cases import Case, cases, cluster_of, node_of
from tests.pure.model.test_resolve import DB, FAR, TCP, WEB, apply, small_cluster

_ = cases

places = st.builds(Place, st.sampled_from(ADDRESSES), st.sampled_from((*NODES[:2], None)))
flows = st.builds(Flow, places, places, st.sampled_from((TCP, 17, 1)), st.sampled_from((80, 85, 8080, 53, 8)))


def check(explanation: Explanation, tables: dict[str, Tables]) -> None:
    """Agrees with the verdict; rows are there; what is said to decide decides."""
    flow, found = explanation.flow, explanation.verdict
    here, there = (tables[place.node] if place.node else None for place in (flow.source, flow.destination))
    assert found == verdict(here, there, flow.source.ip, flow.destination.ip, flow.protocol, flow.port)
    dropping = next((each for each in explanation.judgements if each.drops), None)
    audited = next((each for each in explanation.judgements if each.is_audited), None)
    assert (found.allowed, found.audited) == (dropping is None, dropping is None and audited is not None)
    objecting = dropping or audited
    if objecting is not None:
        assert (found.direction, found.reason) == (objecting.direction, objecting.reason)
    for each in explanation.judgements:
        deciding = {action_of(match.entry.value) for match in each.matches} - {PASS}
        assert deciding == {ALLOWED: deciding & {ALLOW}, POLICY_DENY: {DENY}}.get(each.reason, set())
        flags = each.entries[-1].value
        assert each.reason != ALLOWED or each.matches or not flags & tier_flag(NORMAL, each.direction)
        assert each.reason != POLICY_DENIED or each.isolating or not each.is_known or each.enforcement == ALWAYS
        for entry in (*each.entries, *(match.entry for match in each.matches)):
            assert entry.row is None or entry.row.value(tables[entry.row.node]) == entry.value
        assert all(match.origins for match in each.matches)


def test_every_probe_of_every_case(cases: list[Case]) -> None:
    probes = 0
    for case in cases:
        cluster = cluster_of(case)
        tables = {name: desired_tables(cluster.state, name) for name in cluster.state.nodes}
        facts = StateFacts(cluster.state)
        places = {f"{pod['ns']}/{pod['name']}": Place(parse_ip(pod["ip"]), node_of(pod["ip"])) for pod in case["pods"]}
        for probe in case["probes"][:8]:
            flow = Flow(places[probe["from"]], places[probe["to"]], PROTOCOLS[probe["proto"]], probe["port"])
            check(explain(flow, tables, facts), tables)
            probes += 1
    assert probes > 1000


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, st.lists(flows, min_size=1, max_size=8))
def test_agrees_with_the_verdict_in_any_state(history: list[pb.Event], asked: list[Flow]) -> None:
    state = State()
    for event in history:
        fold_event(state, event)
    tables = {name: desired_tables(state, name) for name in NODES[:2]}
    for flow in asked:
        check(explain(flow, tables, state), tables)


def explained(source: str, destination: str, port: int = 80) -> Explanation:
    cluster, _, _, _ = small_cluster()
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    apply(cluster, "closed", "db", policyTypes=["Ingress"])
    apply(cluster, "open", "db", ingress=[{}, {"from": [peer], "ports": [{"port": 80}]}][1:])
    tables = {name: desired_tables(cluster.state, name) for name in ("n1", "n2")}
    nodes = {WEB: "n1", DB: "n1", FAR: "n2"}
    here, there = (Place(parse_ip(ip), nodes.get(ip)) for ip in (source, destination))
    return explain(Flow(here, there, TCP, port), tables, cluster.state)


def test_an_allowed_flow_names_its_row_and_rule() -> None:
    egress, ingress = explained(WEB, DB).judgements
    assert (egress.direction, egress.reason, egress.is_enforced, egress.matches) == (EGRESS, ALLOWED, False, ())
    (match,) = ingress.matches
    assert [str(origin) for origin in match.origins] == ["NetworkPolicy x/open ingress[0]"]


def test_a_denial_without_a_rule_names_what_isolates() -> None:
    explanation = explained(FAR, DB)
    _, ingress = explanation.judgements
    assert (explanation.verdict.reason, ingress.node, ingress.matches) == (POLICY_DENIED, "n1", ())
    assert [str(name) for name in ingress.isolating] == ["NetworkPolicy x/closed", "NetworkPolicy x/open"]


def test_an_address_of_nobody_is_the_world() -> None:
    (egress,) = explained(WEB, "198.51.100.1").judgements
    assert egress.peer == 2
    assert egress.entries[2] == ("198.51.100.1", None, None)


def test_oneself_needs_no_row() -> None:
    explanation = explained(DB, DB)
    assert explanation.verdict.allowed
    assert explanation.judgements == ()
