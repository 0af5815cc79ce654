"""What the command line prints: tables, messages as data, events and policies in words."""

from typing import Any

import pytest

from kilim.cli.columns import columns, selector_text
from kilim.cli.describe import describe_object
from kilim.cli.event import SUMMARIES, event_name, event_summary
from kilim.cli.kinds import BY_NAME, KINDS, kind_of, reference
from kilim.cli.nodes import HEALTH, node_rows
from kilim.cli.output import plain
from kilim.cli.status import render
from kilim.cli.table import age, size, table
from kilim.v1 import controlplane_pb2 as pb
from kilim.v1 import events_pb2

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "db", "namespace": "shop"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"app": "api"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
                "ports": [{"port": 5432}],
            }
        ],
    },
}


def test_columns_are_aligned_and_nothing_trails() -> None:
    assert table(["NAME", "UP"], [["a", True], ["longer", None]]) == "NAME     UP\na        yes\nlonger   <none>"


def test_zero_is_not_absent() -> None:
    assert table(["N"], [[0], [{}], [[]], [{"b": 1, "a": "x"}], [["p", "q"]]]) == "N\n0\n<none>\n<none>\na=x,b=1\np,q"


@pytest.mark.parametrize(("ms", "text"), [(0, "0ms"), (999, "999ms"), (61_000, "61s"), (180_000, "3m"), (9e7, "25h")])
def test_age(ms: float, text: str) -> None:
    assert age(int(ms)) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (2048, "2 KiB"), (5 << 20, "5 MiB"), (3 << 30, "3.0 GiB")])
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize("word", ["netpol", "networkpolicies", "NetworkPolicy", "networkpolicy.networking.k8s.io"])
def test_kinds_go_by_kubectls_words(word: str) -> None:
    assert kind_of(word).name == "NetworkPolicy"


def test_references_are_kubectls() -> None:
    assert reference("NetworkPolicy", "db") == "networkpolicy.networking.k8s.io/db"
    assert reference("Pod", "a") == "pod/a"
    assert reference("CheeseBoard", "a") == "cheeseboard/a"


def test_every_kind_has_columns() -> None:
    for kind in KINDS:
        for column in columns(kind, wide=True, with_namespace=True):
            column.cell({"metadata": {"name": "x"}})


def test_selectors() -> None:
    assert selector_text({}) == "<none>"
    rules = [{"key": "t", "operator": "In", "values": ["a", "b"]}, {"key": "u", "operator": "DoesNotExist"}]
    assert selector_text({"matchLabels": {"a": "b"}, "matchExpressions": rules}) == "a=b,t in (a,b),!u"


def test_messages_become_data() -> None:
    event = events_pb2.Endpoint(name="a", ip=0x0A3D0103, labels=[events_pb2.Label(key="k", value="v")])
    data = plain(event)
    assert (data["ip"], data["labels"]) == ("10.61.1.3", [{"key": "k", "value": "v"}])
    assert plain(pb.StatusResponse(seq=2**60, chain=b"\x01\xff"))["chain"] == "01ff"
    assert plain(events_pb2.Policy(manifest_json='{"a": 1}'))["manifest"] == {"a": 1}


def test_every_event_has_a_summary() -> None:
    bodies = events_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields
    assert {field.name for field in bodies} == set(SUMMARIES)
    for field in bodies:
        event = events_pb2.Event()
        getattr(event, field.name).SetInParent()
        assert event_name(event) == field.message_type.name
        assert isinstance(event_summary(event), str)
    assert event_name(events_pb2.Event()) == "unknown"


def test_a_policy_in_words() -> None:
    assert describe_object(POLICY)[3:] == [
        "Labels:       <none>",
        "Spec:",
        "  Pods: app=db",
        "  Allowing ingress traffic:",
        "    To port: 5432/TCP",
        "    From: PodSelector: app=api",
        "    From: IPBlock 10.0.0.0/8",
        "  Not affecting egress traffic",
        "  Policy types: Ingress",
    ]


def test_a_cilium_policy_in_words_and_in_a_table() -> None:
    spec = {
        "endpointSelector": {"matchLabels": {"app": "db"}},
        "ingress": [
            {"fromEndpoints": [{"matchLabels": {"app": "api"}}, {}], "toPorts": [{"ports": [{"port": "5432"}]}]},
            {"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "icmps": [{"fields": [{"type": 8}]}]},
            {},
        ],
        "egressDeny": [{"toCIDRSet": [{"cidrGroupRef": "ads"}]}, {"toEntities": []}],
        "enableDefaultDeny": {"egress": False},
    }
    item = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "x", "namespace": "y"}, "specs": [spec, spec]}
    words = [
        "Spec:",
        "  Endpoints: app=db",
        "  Default deny: Ingress",
        "  Allowing ingress traffic:",
        "    To port: 5432/ANY",
        "    From endpoints: app=api",
        "    From endpoints: <any>",
        "    ----------",
        "    To ICMP type: 8 (IPv4)",
        "    From CIDR: 10.0.0.0/8 except 10.1.0.0/16",
        "    ----------",
        "    <nothing> (an empty rule only isolates)",
        "  Denying egress traffic:",
        "    To port: <any>",
        "    To CIDR: of group ads",
        "    ----------",
        "    To port: <any>",
        "    To entity: <nobody>",
    ]
    assert describe_object(item)[4:] == words * 2
    kind = BY_NAME["CiliumNetworkPolicy"]
    shown = {each.header: each.cell(item) for each in columns(kind, wide=True, with_namespace=True)}
    assert shown["ENDPOINT-SELECTOR"] == "app=db; app=db"
    assert shown["DEFAULT-DENY"] == ["Ingress"]
    assert (shown["INGRESS RULES"], shown["INGRESS DENY"], shown["EGRESS DENY"]) == (6, 0, 4)


def test_status_says_what_is_wrong() -> None:
    answer = pb.StatusResponse(
        problems=["node n2 is down"],
        etcd=pb.EtcdStatus(endpoints=["10.0.0.1:2379"], error="connection refused"),
        nodes=[pb.NodeStatus(name="n1", up=True, seq=4, state_comparison=pb.MATCH), pb.NodeStatus(name="n2")],
    )
    text = render(answer, wide=False)
    assert "Kilim    NOT OK" in text and "NOT REACHABLE at 10.0.0.1:2379: connection refused" in text
    assert "n2     down" in text and text.endswith("Problems\n- node n2 is down")


def test_status_compares_digests_within_100_columns() -> None:
    ours, table_digest = bytes.fromhex("4052bf2609e0") * 6, b"\xab" * 32
    node = pb.NodeStatus(
        name="node-rack12",
        ip="192.168.60.101",
        up=True,
        seq=1234567,
        state_digest=ours,
        table_digest=table_digest,
        state_comparison=pb.MATCH,
        table_comparison=pb.DIFFERS,
        lag_events=12,
        lag_ms=340,
    )
    answer = pb.StatusResponse(
        ok=True,
        seq=1234579,
        chain=ours,
        replicas=[pb.ReplicaStatus(name="r1", self=True, seq=9, state_digest=ours, comparison=pb.MATCH)],
        nodes=[node],
        etcd=pb.EtcdStatus(reachable=True, endpoints=["a"], version="3.5.0"),
        log=pb.LogStatus(first_seq=1200001, snapshots=[pb.SnapshotStatus(seq=1220000)], archived_seq=1200000),
    )
    text = render(answer, wide=False)
    assert max(map(len, text.splitlines())) <= 100
    assert "History  from event 1200001, 1 snapshot (newest at 1220000), archived to 1200000" in text
    cells = next(line for line in text.splitlines() if line.startswith("node-rack")).split("   ")
    assert [cell.strip() for cell in cells if cell] == [
        *("node-rack12", "differs", "1234567", "12 (340ms)"),
        *("✓ 4052bf2609", "✗ ababababab", "…", "<none>"),
    ]
    assert "r1     <none>    follower (asked)   9     ✓ 4052bf2609" in text
    wide = render(answer, wide=True)
    assert f"✓ {ours.hex()}" in wide and "REPAIRS" in wide and "POD CIDRS" in wide
    assert render(pb.StatusResponse(), wide=False).splitlines()[2] == "History  from event 1, 0 snapshots"


def cells(**heard: Any) -> dict[str, str]:
    stale = dict.fromkeys(("state_comparison", "table_comparison", "kernel_comparison"), pb.STALE)
    said = {**stale, "state_digest": b"\xab" * 32, "table_digest": b"\xcd" * 32, "seq": 4, "kernel_age_ms": 300_000}
    headers, (row,) = node_rows([pb.NodeStatus(name="n1", **{**said, **heard})], HEALTH, wide=False)
    return dict(zip(headers, map(str, row), strict=True))


@pytest.mark.parametrize(("status", "heard"), [("down", {}), ("silent", {"up": True, "silent": True})])
def test_nothing_of_a_node_that_is_not_heard_looks_current(status: str, heard: dict[str, bool]) -> None:
    shown = cells(**heard, errors=["map policy is full"])
    assert (shown["STATUS"], shown["LAG"], shown["KERNEL"]) == (status, "?", "? 5m")
    assert (shown["STATE DIGEST"], shown["TABLE DIGEST"]) == ("? ababababab", "? cdcdcdcdcd")
    assert cells(**heard, lag_events=12, lag_ms=180_000)["LAG"] == "? 12 (3m)"


def test_a_kernel_last_read_long_ago_shows_how_long() -> None:
    shown = cells(up=True, state_comparison=pb.MATCH, table_comparison=pb.MATCH)
    assert (shown["STATUS"], shown["LAG"], shown["KERNEL"]) == ("ok", "0", "? 5m")
    assert cells(up=True, kernel_comparison=pb.MATCH)["KERNEL"] == "✓"
    assert cells(kernel_comparison=pb.DIFFERS)["KERNEL"] == "✗"


SERVICE = {
    "kind": "Service",
    "metadata": {"name": "db", "namespace": "shop"},
    "spec": {
        "type": "NodePort",
        "selector": {"app": "db", "a": "b"},
        "clusterIP": "10.96.0.9",
        "ports": [
            {"name": "sql", "port": 5432, "targetPort": "pg", "nodePort": 30432},
            {"port": 53, "protocol": "UDP"},
        ],
    },
}
SLICE = {
    "kind": "EndpointSlice",
    "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
    "addressType": "IPv4",
    "ports": [{"port": 5432}, {}],
    "endpoints": [
        {"addresses": ["10.0.0.1", "10.0.0.2"], "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "db-0"}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": False}},
    ],
}


def shown(item: dict[str, Any], wide: bool = False) -> list[str]:
    found = columns(BY_NAME[item["kind"]], wide=wide, with_namespace=False)
    lines = table([each.header for each in found], [[each.cell(item) for each in found]]).splitlines()
    return lines[1].split()


def test_services_show_as_kubectl_has_them() -> None:
    assert shown(SERVICE, wide=True) == [
        "db", "NodePort", "10.96.0.9", "<none>", "5432:30432/TCP,53/UDP", "a=b,app=db",
    ]  # fmt: skip
    outside = {"kind": "Service", "metadata": {"name": "x"}, "spec": {"type": "ExternalName", "externalName": "a.b"}}
    assert shown(outside) == ["x", "ExternalName", "<none>", "a.b", "<none>"]
    balanced = {"kind": "Service", "metadata": {"name": "x"}, "spec": {"type": "LoadBalancer", "clusterIP": "None"}}
    assert shown(balanced) == ["x", "LoadBalancer", "None", "<pending>", "<none>"]


def test_endpoint_slices_show_as_kubectl_has_them() -> None:
    assert shown(SLICE, wide=True) == [
        "db-1", "IPv4", "5432,*", "10.0.0.1,10.0.0.2,10.0.0.3", "db",
    ]  # fmt: skip


def test_services_and_slices_in_words() -> None:
    assert describe_object(SERVICE)[4:] == [
        "Selector:     a=b,app=db",
        "Type:         NodePort",
        "Cluster IPs:  10.96.0.9",
        "Port:         sql 5432/TCP to pg, node port 30432",
        "Port:         53/UDP to 53",
    ]
    assert describe_object(SLICE)[4:] == [
        "AddressType:  IPv4",
        "Port:         5432/TCP",
        "Port:         <any>/TCP",
        "Endpoints:",
        "  10.0.0.1, 10.0.0.2 (ready) on n1, Pod db-0",
        "  10.0.0.3 (not ready)",
    ]


def test_events_of_services_say_what_matters() -> None:
    def summary(noun: str, manifest: str) -> str:
        body = {noun: {"namespace": "x", "name": "s", "manifest_json": manifest}}
        return event_summary(events_pb2.Event(**{f"{noun}_replaced": body}))  # type: ignore[arg-type]

    assert summary("service", '{"spec":{"selector":{"b":"2","a":"1"}}}') == "x/s (selector a=1,b=2)"
    assert summary("service", "{") == "x/s (no selector)"
    slice_of_db = '{"addressType":"IPv4","metadata":{"labels":{"kubernetes.io/service-name":"db"}}'
    one = slice_of_db + ',"endpoints":[{"addresses":["10.0.0.1"]}]}'
    assert summary("endpoint_slice", one) == "x/s (of service db, 1 address)"
    assert summary("endpoint_slice", slice_of_db + "}") == "x/s (of service db, 0 addresses)"
    assert summary("endpoint_slice", "") == "x/s (of no service, 0 addresses)"
