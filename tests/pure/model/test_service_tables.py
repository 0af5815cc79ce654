"""Tables of nodes and of the cluster against their definition, in histories that are mostly about services."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilim.model.cluster_tables import ClusterTables
from kilim.model.desired import desired_tables
from kilim.model.fold import fold_event
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import policy_to_pb
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb
from tests.pure.model.histories import BASE, NODES, events, service_events
from tests.pure.model.service_policies import service_policies

_applied = service_policies.map(lambda p: pb.Event(policy_replaced=pb.PolicyReplaced(policy=policy_to_pb(p))))
_histories: st.SearchStrategy[list[pb.Event]] = st.builds(
    lambda policies, rest: BASE + policies + rest,
    st.lists(_applied, min_size=2, max_size=4),
    st.lists(st.one_of(service_events, service_events, _applied, events), min_size=10, max_size=25),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_histories)
def test_equal_to_the_definition_after_every_event(history: list[pb.Event]) -> None:
    state, cluster, nodes = State(), ClusterTables(), {name: NodeTables(name) for name in NODES[:2]}
    for event in history:
        changes = fold_event(state, event)
        cluster.update(state, changes)
        for tables in nodes.values():
            tables.update(state, changes)
        if event not in BASE:
            for name, tables in nodes.items():
                wanted = desired_tables(state, name)
                assert tables.tables == wanted
                assert cluster.digest(name) == tables.digest == wanted.digest()
