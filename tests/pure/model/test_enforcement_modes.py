"""`enable-policy` and `policy-audit-mode`: what they make of rows and verdicts."""

import dataclasses

import pytest

from kilim.model.address import parse_ip
from kilim.model.desired import desired_tables
from kilim.model.digest import hash_bytes
from kilim.model.identity import HOST
from kilim.model.node_tables import NodeTables
from kilim.model.nouns import endpoint_to_pb
from kilim.model.reach import Reach
from kilim.model.resolve import CLOSED, resolve
from kilim.model.tables import AUDITED, EGRESS, INGRESS, EndpointValue, Tables, hash_endpoint
from kilim.model.verdict import ALLOWED, NO_SUBJECT, POLICY_DENIED, POLICY_DENY, is_audited, verdict
from kilim.v1 import events_pb2 as pb
from tests.pure.model.cluster import Cluster
from tests.pure.model.test_resolve import DB, FAR, HOST_ROW, TCP, TO_HOST_ROW, WEB, apply, ask, small_cluster

ALL_PASS = {"endpointSelector": {}, "enableDefaultDeny": {"ingress": False}, "ingress": [{"fromEntities": ["host"]}]}
ADMIN = {
    "tier": "Admin",
    "priority": 1,
    "subject": {"namespaces": {}},
    "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
}


def cilium(cluster: Cluster, spec: object) -> None:
    metadata = {"name": "p"}
    cluster.apply(
        {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": metadata, "spec": spec}
    )


def admin(cluster: Cluster) -> None:
    body = {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "spec": ADMIN}
    cluster.apply({**body, "metadata": {"name": "p"}})


def test_always_closes_what_no_policy_selects_but_for_its_node() -> None:
    cluster, web, db, _ = small_cluster()
    cluster.set("enable-policy", "always")
    assert resolve(cluster.state, web)[:2] == (CLOSED, {HOST_ROW: 1, TO_HOST_ROW: 1})
    assert ask(cluster, WEB, DB, TCP, 80).reason == POLICY_DENIED
    apply(cluster, "in", "db", ingress=[{}])
    apply(cluster, "out", "web", egress=[{}])
    assert ask(cluster, WEB, DB, TCP, 80).allowed
    assert ask(cluster, FAR, DB, TCP, 80).direction == EGRESS
    assert resolve(cluster.state, db).flags == CLOSED
    assert Reach(cluster.state).rows(db) == resolve(cluster.state, db)[:2]


def test_always_comes_before_rules_without_default_deny() -> None:
    cluster, *_ = small_cluster()
    cilium(cluster, ALL_PASS)
    assert ask(cluster, FAR, DB, TCP, 80).allowed
    cluster.set("enable-policy", "always")
    found = ask(cluster, "198.51.100.1", DB, TCP, 80)
    assert (found.reason, found.direction) == (POLICY_DENIED, INGRESS)


def test_never_is_no_policy_of_any_kind() -> None:
    cluster, web, db, _ = small_cluster()
    apply(cluster, "none", "db", ingress=[])
    admin(cluster)
    cluster.set("enable-policy", "never")
    assert resolve(cluster.state, db) == (0, {}, {})
    assert Reach(cluster.state).rows(web) == (0, {})
    assert ask(cluster, WEB, DB, TCP, 80).reason == ALLOWED
    cluster.set("enable-policy", "")
    assert ask(cluster, WEB, DB, TCP, 80).reason == POLICY_DENY


def test_the_way_in_from_the_own_node_is_policys_where_allow_localhost_says_so() -> None:
    cluster, _, db, _ = small_cluster()
    apply(cluster, "none", "db", ingress=[])
    for word, rows in (("always", {HOST_ROW: 1}), ("policy", {}), ("auto", {HOST_ROW: 1}), ("policy", {})):
        cluster.set("allow-localhost", word)
        assert resolve(cluster.state, db).rows == Reach(cluster.state).rows(db)[1] == rows
    cilium(cluster, {"endpointSelector": {}, "ingress": [{"fromEntities": ["host"]}]})
    assert resolve(cluster.state, db).rows == {HOST_ROW: 1}


def test_a_denied_node_stays_out_whatever_allow_localhost_says() -> None:
    cluster, _, db, _ = small_cluster()
    cilium(cluster, {"endpointSelector": {}, "ingress": [{}], "ingressDeny": [{"fromEntities": ["host"]}]})
    for word in ("always", "policy"):
        cluster.set("allow-localhost", word)
        assert resolve(cluster.state, db).rows[HOST_ROW] & 3 == 2


def test_tables_follow_allow_localhost_and_back() -> None:
    cluster, *_ = small_cluster()
    apply(cluster, "none", "db", ingress=[])
    tables = NodeTables("n1")
    tables.rebuild(cluster.state)
    before = tables.tables.digest()
    for word in ("policy", "always"):
        cluster.changes.clear()
        cluster.set("allow-localhost", word)
        tables.update(cluster.state, cluster.changes)
        assert tables.tables == desired_tables(cluster.state, "n1")
        assert (tables.digest == before) is (word == "always")


@pytest.mark.parametrize("words", [("always", "default"), ("never", "always", ""), ("always", "nonsense")])
def test_tables_follow_the_setting_and_back(words: tuple[str, ...]) -> None:
    cluster, *_ = small_cluster()
    apply(cluster, "none", "db", ingress=[])
    tables = NodeTables("n1")
    tables.rebuild(cluster.state)
    before = tables.tables.digest()
    for word in words:
        cluster.changes.clear()
        cluster.set("enable-policy", word)
        tables.update(cluster.state, cluster.changes)
        assert tables.tables == desired_tables(cluster.state, "n1")
    assert tables.digest == before


def flags_of(cluster: Cluster) -> dict[str, int]:
    rows = {**desired_tables(cluster.state, "n1").endpoints, **desired_tables(cluster.state, "n2").endpoints}
    return {ip: rows[parse_ip(ip)].flags for ip in (WEB, DB, FAR)}


def audit(cluster: Cluster, name: str, on: bool) -> None:
    was = cluster.state.endpoints[name]
    now = dataclasses.replace(was, policy_audit_mode=on)
    cluster.happen(endpoint_updated=pb.EndpointUpdated(endpoint=endpoint_to_pb(now)))


def test_who_is_in_audit_mode() -> None:
    cluster, *_ = small_cluster()
    audit(cluster, "x/web", True)
    assert flags_of(cluster) == {WEB: AUDITED, DB: 0, FAR: 0}
    cluster.set("policy-audit-mode", "true", "n2")
    assert flags_of(cluster) == {WEB: AUDITED, DB: 0, FAR: AUDITED}
    cluster.set("policy-audit-mode", "true")
    cluster.set("policy-audit-mode", "false", "n1")
    assert flags_of(cluster) == {WEB: AUDITED, DB: 0, FAR: AUDITED}, "a node's own comes first"
    cluster.set("policy-audit-mode", "", "n1")
    assert flags_of(cluster) == {WEB: AUDITED, DB: AUDITED, FAR: AUDITED}, "taken back: as the cluster"


def test_a_row_without_flags_has_the_digest_that_it_had_before_there_were_any() -> None:
    before = hash_bytes(b"endpoints\0\0\0\x04" + bytes.fromhex("00000001" + "0007" + "00000100"))
    assert hash_endpoint(1, EndpointValue(7, 256)) == before
    assert hash_endpoint(1, EndpointValue(7, 256, AUDITED)) != before


def test_a_verdict_says_what_audit_mode_lets_through() -> None:
    cluster, *_ = small_cluster()
    apply(cluster, "none", "db", ingress=[])
    audit(cluster, "x/db", True)
    found = ask(cluster, WEB, DB, TCP, 80)
    assert (found.allowed, found.audited, found.reason, found.direction) == (True, True, POLICY_DENIED, INGRESS)
    apply(cluster, "closed", "web", policyTypes=["Egress"])
    found = ask(cluster, WEB, DB, TCP, 80)
    assert (found.allowed, found.audited, found.direction) == (False, False, EGRESS), "the sender is not in it"
    audit(cluster, "x/web", True)
    found = ask(cluster, WEB, DB, TCP, 80)
    assert (found.allowed, found.audited, found.direction) == (True, True, EGRESS), "both; the first is told"


def test_a_subject_without_a_row_stays_closed_in_audit_mode() -> None:
    assert not is_audited(EndpointValue(1, 256, AUDITED), NO_SUBJECT)
    tables = Tables(endpoints={1: EndpointValue(1, 256, AUDITED)}, ipcache={(2, 32): (HOST, 0)})
    assert verdict(tables, None, 1, 2, TCP, 80).reason == NO_SUBJECT
