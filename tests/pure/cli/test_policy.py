"""`kilim policy trace|get|selectors` and `kilim endpoint get` on a small history: what a reader sees."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kilim.cli.main import main
from kilim.controlplane.api.shown import show_all
from kilim.controlplane.decide.command import (
    ApplyObjects,
    ConfigureEndpoint,
    Document,
    RegisterEndpoint,
    RegisterNode,
    RemoveEndpoint,
)
from kilim.model.fold import fold_record
from kilim.model.resource import parse_manifest
from kilim.model.state import State
from tests.pure.cli.test_why import Snapshots, Story, cluster_policy, story

WEB = {"matchLabels": {"app": "web"}}
DB = {"matchLabels": {"app": "db"}}
Ask = Callable[..., Result]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    def run(told: Story, *words: str, snapshots: tuple[int, ...] = ()) -> Result:
        history = Snapshots(told.records, snapshots)
        for module in ("policy", "trace", "endpoint"):
            monkeypatch.setattr(f"kilim.cli.{module}.open_history", lambda _: history)
        return CliRunner().invoke(main, list(words))

    return run


def apply(told: Story, kind: str, name: str, **spec: Any) -> None:
    metadata = {"name": name} | ({"namespace": "shop"} if kind == "CiliumNetworkPolicy" else {})
    manifest = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, **spec}
    told.do("cli:bob@desk", ApplyObjects((Document(parse_manifest(manifest).noun),)))


def denying() -> Story:
    """story() and a policy of Cilium's that denies db a port, and lets pings in."""
    told = story()
    deny = {"fromEndpoints": [WEB], "toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}]}]}
    ping = {"fromEndpoints": [WEB], "icmps": [{"fields": [{"type": "EchoRequest", "family": "IPv4"}]}]}
    first = {"endpointSelector": DB, "ingress": [ping]}
    second = {"endpointSelector": DB, "ingressDeny": [deny]}
    apply(told, "CiliumNetworkPolicy", "db", specs=[first, second])
    return told


def steps(data: dict[str, Any], direction: str) -> dict[str, Any]:
    return next(step for step in data["steps"] if step["direction"] == direction)


def test_trace_of_a_port_names_the_rule(ask: Ask) -> None:
    done = ask(story(), "policy", "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "allowed",
        "shop/web -> shop/db TCP 5432, as of event 8",
        "",
        "egress of shop/web, identity 256, to identity 257: open, nothing closes it",
        "",
        "ingress of shop/db, identity 257, from identity 256: allowed by NetworkPolicy shop/db ingress[0]",
        "TIER     POLICY OR RULE              SAYS                       PEER   PORT",
        "normal   NetworkPolicy shop/closed   selects it, default deny   -      -      -",
        "normal   NetworkPolicy shop/db       selects it, default deny   -      -      -",
        "normal   ↳ ingress[0]                allow                      yes    yes    decides",
    ]
    denied = ask(story(), "policy", "trace", "--from", "shop/web", "--to", "shop/db", "--port", "22")
    assert denied.stdout.startswith("denied: POLICY_DENIED, ingress\n")
    assert "closed by NetworkPolicy shop/closed, NetworkPolicy shop/db\n" in denied.stdout


def test_a_deny_comes_before_an_allow(ask: Ask) -> None:
    words = ("policy", "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432", "-o", "json")
    data = json.loads(ask(denying(), *words).stdout)
    assert (data["verdict"], steps(data, "ingress")["reason"]) == ("denied", "POLICY_DENY")
    (tier,) = steps(data, "ingress")["tiers"]
    assert tier["decidedBy"] == [
        {"kind": "CiliumNetworkPolicy", "namespace": "shop", "name": "db", "section": "specs[1].ingressDeny", "rule": 0}
    ]
    rules = {
        (policy["kind"], rule["origin"]["section"]): (rule["selectsPeer"], rule["selectsPort"], rule["decides"])
        for policy in tier["policies"]
        for rule in policy["rules"]
    }
    assert rules == {
        ("NetworkPolicy", "ingress"): (True, True, False),
        ("CiliumNetworkPolicy", "specs[0].ingress"): (True, False, False),
        ("CiliumNetworkPolicy", "specs[1].ingressDeny"): (True, True, True),
    }


def test_all_ports_with_types_of_icmp(ask: Ask) -> None:
    words = ("policy", "trace", "--from", "shop/web", "--to", "shop/db")
    lines = ask(denying(), *words).stdout.splitlines()
    assert lines[0] == "shop/web -> shop/db, all ports, as of event 9"
    table = {line.split("   ")[0].strip(): line for line in lines[2:]}
    assert "allowed" in table["ICMP type 8"] and "specs[0].ingress[0]" in table["ICMP type 8"]
    assert "denied: POLICY_DENY, ingress" in table["TCP 5432"]
    data = json.loads(ask(denying(), *words, "-o", "json").stdout)
    allowed = [each for each in data["ports"] if each["verdict"] == "allowed"]
    assert [each["ranges"] for each in allowed] == [[{"protocol": "ICMP", "first": 8, "last": 8}]]


def test_tiers_in_their_order(ask: Ask) -> None:
    told = story()
    everybody: list[dict[str, Any]] = [{"namespaces": {}}]
    cluster_policy(told, "shops", "Admin", 5, action="Pass", **{"from": everybody})
    cluster_policy(told, "lockdown", "Admin", 6, action="Deny", **{"from": everybody})
    words = ("policy", "trace", "--from", "shop/web", "--to", "shop/db", "--port", "5432", "-o", "json")
    data = json.loads(ask(told, *words).stdout)
    assert data["verdict"] == "allowed"
    assert [
        (each["tier"], each["says"], [by["name"] for by in each["decidedBy"]])
        for each in steps(data, "ingress")["tiers"]
    ] == [
        ("admin", "pass", ["shops"]),
        ("normal", "allow", ["db"]),
    ]


def test_labels_that_no_pod_has(ask: Ask) -> None:
    words = ("policy", "trace", "--to", "shop/db", "--port", "5432", "--from-namespace", "shop")
    assert ask(story(), *words, "--from-labels", "app=web").stdout.startswith("allowed\n")
    assert ask(story(), *words, "--from-labels", "k8s:app=web,tier=new").stdout.startswith("allowed\n")
    other = ask(story(), *words, "--from-labels", "k8s:app=cron").stdout
    assert other.startswith("denied: POLICY_DENIED, ingress\na pod in shop with k8s:app=cron -> shop/db TCP 5432")
    receiver = ("--to-labels", "app=new", "--to-namespace", "shop", "--port", "80")
    answer = ask(story(), "policy", "trace", "--from", "shop/web", *receiver).stdout
    assert "closed by NetworkPolicy shop/closed\n" in answer
    world = ask(story(), "policy", "trace", "--from-labels", "reserved:world", "--to", "shop/db", "--port", "1").stdout
    assert "from identity 2 (world): denied" in world


def of_two_families() -> Story:
    """One pod of each family and one of both; all may be pinged over IPv6 by pods, and `both` by what is outside."""
    told = Story()
    told.do("node:n1", RegisterNode("n1", "192.0.2.1", ("10.0.1.0/24", "fd00:1::/64"), ipv6="2001:db8::1"))
    for number, (name, ip, ipv6) in enumerate(
        (("four", "10.0.1.2", ""), ("six", "", "fd00:1::3"), ("both", "10.0.1.4", "fd00:1::4")), 1
    ):
        labels = (("app", name),)
        told.do("node:n1", RegisterEndpoint("n1", "shop", name, "c1", ip, number, labels, ipv6=ipv6))
    ping = [{"fields": [{"type": 128, "family": "IPv6"}]}]
    from_pods = {"fromEndpoints": [{}], "icmps": ping}
    from_outside = {"fromEntities": ["world-ipv6"], "icmps": ping}
    apply(told, "CiliumNetworkPolicy", "ping", spec={"endpointSelector": {}, "ingress": [from_pods]})
    both = {"matchLabels": {"app": "both"}}
    apply(told, "CiliumNetworkPolicy", "outside", spec={"endpointSelector": both, "ingress": [from_outside]})
    return told


@pytest.mark.parametrize(
    ("source", "target", "protocol", "told"),
    [
        ("shop/six", "shop/both", "ICMP", "allowed: shop/six -> shop/both ICMPv6 128"),
        ("shop/both", "shop/six", "ICMPv6", "allowed: shop/both -> shop/six ICMPv6 128"),
        ("fd00:1::4", "shop/six", "ICMP", "allowed: shop/both -> shop/six ICMPv6 128"),
        ("shop/four", "shop/both", "ICMP", "denied: shop/four -> shop/both ICMP 8"),
        ("world-ipv6", "shop/both", "ICMPv6", "allowed: identity 10 -> shop/both ICMPv6 128"),
        ("world-ipv4", "shop/both", "ICMP", "denied: identity 2 -> shop/both ICMP 8"),
        ("2001:db8:9::1", "shop/both", "ICMP", "allowed: 2001:db8:9::1 -> shop/both ICMPv6 128"),
        ("world", "shop/six", "ICMP", "denied: identity 10 -> shop/six ICMPv6 128"),
        ("world", "shop/both", "ICMP", "denied: identity 2 -> shop/both ICMP 8"),
    ],
)
def test_trace_over_the_family_of_the_ends(ask: Ask, source: str, target: str, protocol: str, told: str) -> None:
    words = ("policy", "trace", "--from", source, "--to", target, "--protocol", protocol)
    done = ask(of_two_families(), *words)
    assert done.exit_code == 0, done.output
    first, second, *_ = done.stdout.splitlines()
    assert f"{first.partition(':')[0]}: {second.partition(',')[0]}" == told


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--from", "shop/four", "--to", "shop/six"),
            "shop/four and shop/six have no addresses of one family: no packet goes between them",
        ),
        (
            ("--from", "198.51.100.7", "--to", "shop/six", "--port", "80"),
            "198.51.100.7 and shop/six have no addresses of one family: no packet goes between them",
        ),
        (
            ("--from", "world-ipv6", "--to", "shop/four"),
            "identity 10 and shop/four have no addresses of one family: no packet goes between them",
        ),
        (
            ("--from", "shop/four", "--to", "shop/both", "--protocol", "ICMPv6"),
            "ICMPv6 goes over IPv6, and shop/four and shop/both have IPv4 alone in common",
        ),
    ],
)
def test_ends_that_no_packet_goes_between(ask: Ask, words: tuple[str, ...], line: str) -> None:
    done = ask(of_two_families(), "policy", "trace", *words)
    assert (done.exit_code != 0, done.stdout, done.stderr) == (True, "", f"error: {line}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--from", "shop/web"), "--to: give one of --to, --to-labels and --to-identity"),
        (
            ("--from", "shop/web", "--from-identity", "1", "--to", "shop/db"),
            "--from: give one of --from, --from-labels and --from-identity",
        ),
        (("--from", "web", "--to", "shop/db"), '--from: "web" must be NAMESPACE/POD or an IP address'),
        (("--from", "shop/web", "--to", "shop/db", "--port", "0"), "--port: 0 must be from 1 to 65535"),
        (("--from", "shop/web", "--to", "shop/no"), "no pod shop/no as of event 8"),
        (("--from", "shop/web", "--to-identity", "9999"), "no identity 9999 as of event 8"),
        (("--from", "shop/web", "--to", "shop/db", "--to-namespace", "x"), "--to-namespace: goes with --to-labels"),
        (("--from-labels", "=x", "--to", "shop/db"), '--from-labels: "=x" must be KEY=VALUE'),
        (
            ("--from", "192.0.2.1", "--to", "203.0.113.7"),
            "neither 192.0.2.1 nor 203.0.113.7 is a pod: no policy speaks of them",
        ),
        (
            ("--from", "shop/db", "--to", "shop/db"),
            "shop/db: packets from an endpoint to itself never leave it, so no policy speaks of them",
        ),
    ],
)
def test_bad_questions_are_one_line(ask: Ask, words: tuple[str, ...], line: str) -> None:
    done = ask(story(), "policy", "trace", *words)
    assert (done.exit_code != 0, done.stdout, done.stderr) == (True, "", f"error: {line}\n")


def test_what_policies_come_to(ask: Ask) -> None:
    data = {
        each["kind"] + " " + each["name"]: each
        for each in json.loads(ask(denying(), "policy", "get", "-o", "json").stdout)
    }
    assert set(data) == {"NetworkPolicy closed", "NetworkPolicy db", "CiliumNetworkPolicy db"}
    closed, db, cilium = (data[name] for name in ("NetworkPolicy closed", "NetworkPolicy db", "CiliumNetworkPolicy db"))
    assert (closed["endpoints"], closed["rows"], closed["rowsByNode"]) == (2, 0, {})
    assert (db["endpoints"], db["rowsByNode"], db["event"]["seq"]) == (1, {}, 8)  # the deny stands in its place
    assert (cilium["rowsByNode"], cilium["event"]["actor"]) == ({"n2": 2}, "cli:bob@desk")
    wide = ask(story(), "policy", "get", "-o", "wide").stdout
    assert [line.split()[:8] for line in wide.splitlines()[1:]] == [
        ["shop", "closed", "NetworkPolicy", "normal", "-", "2", "0", "256,257"],
        ["shop", "db", "NetworkPolicy", "normal", "-", "1", "1", "257"],
    ]
    assert "n2=1" in wide and "cli:ann@desk" in wide
    manifest = json.loads(ask(story(), "policy", "get", "db", "-n", "shop", "-o", "json").stdout)
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("NetworkPolicy", "db")
    missing = ask(story(), "policy", "get", "none", "-n", "shop")
    assert (missing.exit_code, missing.stderr) == (1, 'error: no policy "none" in shop namespace as of event 8\n')


def test_selectors_and_who_uses_them(ask: Ask) -> None:
    data = {each["selector"]: each for each in json.loads(ask(story(), "policy", "selectors", "-o", "json").stdout)}
    everybody = data["k8s:io.kubernetes.pod.namespace=shop"]
    web = data["k8s:app=web,k8s:io.kubernetes.pod.namespace=shop"]
    assert (everybody["identities"], [each["name"] for each in everybody["subjectsOf"]]) == ([256, 257], ["closed"])
    assert (web["identities"], web["subjectsOf"], [each["name"] for each in web["peersOf"]]) == ([256], [], ["db"])
    assert "256, 257" in ask(story(), "policy", "selectors", "-o", "wide").stdout


def test_identities_that_no_endpoint_has_are_marked(ask: Ask) -> None:
    told = story()
    told.do("node:n2", RemoveEndpoint("n2", "shop", "db"))
    data = json.loads(ask(told, "policy", "selectors", "-o", "json").stdout)
    assert {tuple(each["unused"]) for each in data if 257 in each["identities"]} == {(257,)}
    assert "256, 257 (unused)" in ask(told, "policy", "selectors", "-o", "wide").stdout
    assert "2 (1 unused)" in ask(told, "policy", "selectors").stdout
    state = State()
    for seq, record in enumerate(told.records, 1):
        fold_record(state, seq, record)
    shown = {each.name: json.loads(each.json) for each in show_all(state, "Identity", "")}
    assert (shown["256"]["status"], shown["257"]["status"]) == ({"endpoints": 1}, {"endpoints": 0})
    assert "status" not in shown["1"]  # the node itself


@pytest.mark.parametrize("snapshots", [(), (5,), (8,)])
def test_an_endpoint_and_its_rows(ask: Ask, snapshots: tuple[int, ...]) -> None:
    data = json.loads(ask(denying(), "endpoint", "get", "shop/db", "-o", "json", snapshots=snapshots).stdout)
    assert (data["id"], data["node"], data["address"], data["identity"]) == (1, "n2", "10.0.2.2", 257)
    assert (data["enforced"], data["event"]["seq"]) == ({"ingress": ["normal"], "egress": []}, 7)
    rows = {
        (each["protocol"], json.dumps(each["ports"]), each["action"]): each
        for each in data["policy"]
        if each["peer"] == 256
    }
    assert set(rows) == {
        ("ICMP", '{"first": 8, "last": 8}', "allow"),
        ("TCP", '{"first": 5432, "last": 5432}', "deny"),
    }
    deny = rows["TCP", '{"first": 5432, "last": 5432}', "deny"]
    assert ([each["section"] for each in deny["origins"]], deny["event"]["seq"]) == (["specs[1].ingressDeny"], 9)
    assert "k8s:app=web" in deny["peerLabels"]


def test_an_endpoint_that_is_audited_says_so(ask: Ask) -> None:
    told = story()
    told.do("cli:ann@desk", ConfigureEndpoint("shop", "db", True))
    text = ask(told, "endpoint", "get", "shop/db").stdout
    assert "Audit      what its policy denies passes and is recorded\n" in text
    assert json.loads(ask(told, "endpoint", "get", "shop/web", "-o", "json").stdout)["policyAuditMode"] is False


def test_an_endpoint_by_its_number(ask: Ask) -> None:
    text = ask(story(), "endpoint", "get", "1", "--node", "n2").stdout
    assert text.startswith("Endpoint   shop/db\nID         1\nNode       n2\n")
    assert "NetworkPolicy shop/db ingress[0]" in text and "TCP 5432" in text
    for words, line in (
        (("1",), "--node: must be given, endpoint 1 is shop/db, shop/web"),
        (("7",), "no endpoint 7 as of event 8"),
        (("shop/db", "--node", "n2"), "--node: goes with the number of an endpoint"),
        (("db",), 'NS/POD|ID: "db" must be NAMESPACE/POD or the number of an endpoint'),
    ):
        done = ask(story(), "endpoint", "get", *words)
        assert (done.exit_code != 0, done.stderr) == (True, f"error: {line}\n")


def test_a_pod_where_labels_are_wanted_is_told_so(ask: Ask) -> None:
    done = ask(story(), "policy", "trace", "--src", "shop/web", "--to", "shop/db")
    assert done.exit_code == 2 and '--from-labels: "shop/web" is a pod, which goes with --from' in done.stderr


def test_a_policy_by_namespace_and_name(ask: Ask) -> None:
    by_name = ask(story(), "policy", "get", "shop/db").stdout
    assert by_name == ask(story(), "policy", "get", "db", "-n", "shop").stdout and "db" in by_name
    assert ask(story(), "policy", "get", "shop/db", "-n", "shop").exit_code == 2


def test_an_entity_as_an_end(ask: Ask) -> None:
    words = ("--to", "shop/db", "--port", "1")
    by_word = ask(story(), "policy", "trace", "--from", "world", *words).stdout
    assert by_word == ask(story(), "policy", "trace", "--from-identity", "2", *words).stdout and "denied" in by_word
