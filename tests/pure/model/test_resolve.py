"""Resolution and verdicts: the rows a subject gets, why, and what the datapath would make of them."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.identity import HOST, REMOTE_NODE, WORLD
from kilim.model.nouns import Endpoint, NamedPort, endpoint_to_pb
from kilim.model.resolve import resolve, without_covered
from kilim.model.tables import (
    ALLOW,
    AUDITED,
    DENY,
    EGRESS,
    ENFORCE_EGRESS,
    ENFORCE_INGRESS,
    INGRESS,
    PASS,
    TIERS,
    UNKNOWN_SUBJECT,
    PolicyKey,
    PolicyRows,
    Tables,
    row_value,
)
from kilim.model.verdict import Verdict, matching_key, verdict
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cluster import Cluster

TCP, UDP, ICMP = 6, 17, 1
HTTP = NamedPort("http", 80, TCP)
WEB, DB, FAR = "10.0.1.1", "10.0.1.2", "10.0.2.1"
HOST_ROW = PolicyKey(INGRESS, HOST, 0, 0, 0)
TO_HOST_ROW = PolicyKey(EGRESS, HOST, 0, 0, 0)


def small_cluster() -> tuple[Cluster, int, int, int]:
    cluster = Cluster()
    cluster.node("n1", "172.16.0.1")
    cluster.node("n2", "172.16.0.2")
    web = cluster.pod("x", "web", "n1", WEB, {"app": "web"}, (HTTP,))
    db = cluster.pod("x", "db", "n1", DB, {"app": "db"}, (NamedPort("http", 8080, TCP), NamedPort("dns", 53, UDP)))
    far = cluster.pod("y", "far", "n2", FAR, {"app": "far"})
    return cluster, web, db, far


def apply(cluster: Cluster, name: str, app: str, **spec: object) -> None:
    spec["podSelector"] = {"matchLabels": {"app": app}}
    metadata = {"name": name, "namespace": "x"}
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})


def ask(cluster: Cluster, source: str, destination: str, protocol: int, port: int) -> Verdict:
    tables = {name: desired_tables(cluster.state, name) for name in ("n1", "n2")}
    nodes = {WEB: "n1", DB: "n1", FAR: "n2"}

    def of(ip: str) -> Tables | None:
        return tables[nodes[ip]] if ip in nodes else None

    return verdict(of(source), of(destination), parse_ip(source), parse_ip(destination), protocol, port)


def test_not_selected_is_open() -> None:
    cluster, web, _, _ = small_cluster()
    assert resolve(cluster.state, web) == (0, {}, {})
    assert ask(cluster, "198.51.100.1", WEB, ICMP, 8).allowed


def test_rows_and_their_origins() -> None:
    cluster, web, db, _ = small_cluster()
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    apply(cluster, "one", "db", ingress=[{"from": [peer], "ports": [{"port": 80}]}])
    apply(cluster, "two", "db", ingress=[{}, {"from": [peer], "ports": [{"port": 80}]}], policyTypes=["Ingress"])
    apply(cluster, "three", "db", egress=[{"to": [peer], "ports": [{"port": "http"}]}], policyTypes=["Egress"])
    found = resolve(cluster.state, db)
    everybody, by_name = PolicyKey(INGRESS, 0, 0, 0, 0), PolicyKey(EGRESS, web, TCP, 80, 16)
    assert found.flags == 3
    assert found.rows == {everybody: ALLOW, by_name: ALLOW, TO_HOST_ROW: ALLOW}
    assert {key: [str(o) for o in origins] for key, origins in found.provenance.items()} == {
        everybody: ["NetworkPolicy x/two ingress[0]"],
        by_name: ["NetworkPolicy x/three egress[0]"],
        TO_HOST_ROW: ["built-in a pod reaches its node"],
    }


def test_same_row_from_two_policies() -> None:
    cluster, web, db, _ = small_cluster()
    for name in ("one", "two"):
        apply(cluster, name, "db", ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}])
    found = resolve(cluster.state, db)
    assert found.rows == dict.fromkeys([HOST_ROW, *(PolicyKey(INGRESS, p, TCP, 80, 16) for p in (web, db))], ALLOW)
    assert [o.name for o in found.provenance[PolicyKey(INGRESS, web, TCP, 80, 16)]] == ["one", "two"]


def test_port_names_are_the_receivers() -> None:
    cluster, web, db, _ = small_cluster()
    apply(cluster, "in", "db", ingress=[{"ports": [{"port": "http"}, {"port": "dns"}, {"port": "none"}]}])
    assert set(resolve(cluster.state, db).rows) == {HOST_ROW, PolicyKey(INGRESS, 0, TCP, 8080, 16)}
    apply(cluster, "out", "web", egress=[{"ports": [{"port": "http"}]}], policyTypes=["Egress"])
    assert set(resolve(cluster.state, web).rows) == {
        TO_HOST_ROW,
        PolicyKey(EGRESS, web, TCP, 80, 16),
        PolicyKey(EGRESS, db, TCP, 8080, 16),
    }


def test_port_ranges_and_protocols() -> None:
    cluster, _, db, _ = small_cluster()
    ports = [{"port": 80, "endPort": 83}, {"protocol": "UDP"}, {"protocol": "UDP", "port": 53}]
    apply(cluster, "in", "db", ingress=[{"ports": ports}])
    assert set(resolve(cluster.state, db).rows) == {
        HOST_ROW,
        PolicyKey(INGRESS, 0, TCP, 80, 14),
        PolicyKey(INGRESS, 0, UDP, 0, 0),
    }
    for protocol, port, allowed in ((TCP, 79, 0), (TCP, 80, 1), (TCP, 83, 1), (TCP, 84, 0), (UDP, 9, 1), (ICMP, 8, 0)):
        assert ask(cluster, WEB, DB, protocol, port).allowed == bool(allowed)


def test_a_pod_and_its_own_node_always_reach_each_other() -> None:
    cluster, web, _, _ = small_cluster()
    apply(cluster, "closed", "web", policyTypes=["Ingress", "Egress"])
    assert ask(cluster, "172.16.0.1", WEB, TCP, 80) == Verdict(True, None, "ALLOWED", HOST, web)
    assert ask(cluster, "172.16.0.2", WEB, TCP, 80) == Verdict(False, INGRESS, "POLICY_DENIED", REMOTE_NODE, web)
    assert ask(cluster, WEB, "172.16.0.1", TCP, 80) == Verdict(True, None, "ALLOWED", web, HOST)
    assert ask(cluster, WEB, "172.16.0.2", TCP, 80) == Verdict(False, EGRESS, "POLICY_DENIED", web, REMOTE_NODE)
    assert ask(cluster, WEB, WEB, TCP, 80).allowed


def test_blocks_select_the_world_by_longest_match() -> None:
    cluster, web, _, far = small_cluster()
    block = {"cidr": "0.0.0.0/0", "except": ["198.51.100.0/24"]}
    apply(cluster, "out", "web", egress=[{"to": [{"ipBlock": block}]}], policyTypes=["Egress"])
    assert ask(cluster, WEB, "203.0.113.1", TCP, 443).allowed
    assert not ask(cluster, WEB, "198.51.100.7", TCP, 443).allowed
    assert ask(cluster, WEB, FAR, TCP, 443) == Verdict(True, None, "ALLOWED", web, far)  # every pod is in it
    apply(cluster, "out2", "web", egress=[{"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}]}], policyTypes=["Egress"])
    assert ask(cluster, WEB, "198.51.100.7", TCP, 443).allowed
    assert not ask(cluster, WEB, "198.51.100.8", TCP, 443).allowed


def test_what_the_log_does_not_know_is_closed() -> None:
    cluster, web, _, _ = small_cluster()
    stranger = Endpoint("x", "stranger", "n1", 9, parse_ip("10.0.1.9"), 4000)
    cluster.happen(endpoint_added=pb.EndpointAdded(endpoint=endpoint_to_pb(stranger)))
    tables = desired_tables(cluster.state, "n1")
    assert tables.ipcache[(stranger.ip, 32)] == (4000, 0)
    closed = ENFORCE_INGRESS | ENFORCE_EGRESS | UNKNOWN_SUBJECT
    assert (tables.subjects[4000], tables.policy.get(4000)) == (closed, None)
    assert resolve(cluster.state, 4000) == (closed, {}, {})
    tables.endpoints[stranger.ip] = tables.endpoints[stranger.ip]._replace(flags=AUDITED)
    found = verdict(tables, tables, stranger.ip, parse_ip(WEB), TCP, 80)
    assert (found.allowed, found.direction, found.reason) == (False, EGRESS, "NO_SUBJECT"), "in audit mode too"
    assert verdict(None, tables, parse_ip("10.9.9.9"), stranger.ip, TCP, 80).source_identity == WORLD
    del tables.subjects[web]
    assert verdict(tables, tables, parse_ip(DB), parse_ip(WEB), TCP, 80).reason == "NO_SUBJECT"


_l4s = st.one_of(
    st.just((0, 0, 0)),
    st.tuples(st.sampled_from((TCP, UDP)), st.integers(0, 7), st.integers(13, 16)).map(
        lambda l4: (l4[0], l4[1] & (0xFFFF << (16 - l4[2])), l4[2])
    ),
    st.sampled_from(((TCP, 0, 0), (UDP, 0, 0))),
)
_values = st.sampled_from(
    (ALLOW, DENY, row_value(PASS, 7), row_value(ALLOW, 7), row_value(DENY, 8), row_value(ALLOW, 9))
)
_keys = st.builds(
    lambda d, p, l4, tier: PolicyKey(d, p, *l4, tier),
    st.sampled_from((0, 1)),
    st.sampled_from((0, 5, 6)),
    _l4s,
    st.sampled_from(TIERS),
)


def _greatest(rows: PolicyRows, tier: int, direction: int, peer: int, protocol: int, port: int) -> int | None:
    """Of all rows that cover a packet, however long they match."""
    return max(
        (
            value
            for key, value in rows.items()
            if (key.direction, key.tier) == (direction, tier)
            and key.peer in (0, peer)
            and key.protocol in (0, protocol)
            and port >> (16 - key.port_prefix_len) == key.port >> (16 - key.port_prefix_len)
        ),
        default=None,
    )


@given(st.dictionaries(_keys, _values, max_size=14))
def test_after_dropping_covered_rows_the_longest_match_is_the_greatest(wanted: PolicyRows) -> None:
    rows = without_covered(wanted)
    packets = [(p, n) for p in (TCP, UDP) for n in range(9)] + [(ICMP, 0)]
    for tier, direction, peer, (protocol, port) in product(TIERS, (0, 1), (5, 6, 7), packets):
        found = [matching_key(rows, direction, each, protocol, port, tier) for each in (peer, 0)]
        longest = max((rows[key] for key in found if key is not None), default=None)
        assert longest == _greatest(wanted, tier, direction, peer, protocol, port)
