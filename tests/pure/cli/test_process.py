"""What the flags of the agent come to as its settings."""

from typing import Any

import pytest
from click.testing import CliRunner

from kilim.agent.settings import Settings
from kilim.cli.main import main
from kilim.model.address import parse_ip

V4, V6 = "192.0.2.11", "2001:db8::11"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    settings: list[Settings] = []
    monkeypatch.setattr("kilim.agent.runtime.run", settings.append)
    return settings


def agent(*arguments: str, **environment: str) -> Any:
    given = ["agent", "--node-name", "node1", "--servers", "[2001:db8::1]:4260,192.0.2.1:4260", *arguments]
    return CliRunner(env=environment).invoke(main, given)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--node-ip", V4], (V4, "")),
        (["--node-ip", V6], ("", V6)),
        (["--node-ip", f"{V4},{V6}"], (V4, V6)),
        (["--node-ip", "2001:DB8:0::11, 192.0.2.11"], (V4, V6)),
        (["--node-ip", V6, "--node-ip", V4], (V4, V6)),
        (["--node-ip", V4, "--node-ip", V4], (V4, "")),
    ],
)
def test_a_node_has_an_address_of_each_family_or_of_one(
    started: list[Settings], arguments: list[str], expected: tuple[str, str]
) -> None:
    assert agent(*arguments).exit_code == 0
    [settings] = started
    assert (settings.node_ip, settings.node_ipv6) == expected
    assert settings.node_ips == tuple(parse_ip(ip) for ip in expected if ip)
    assert settings.servers == ("[2001:db8::1]:4260", "192.0.2.1:4260")


def test_the_environment_says_it_too(started: list[Settings]) -> None:
    environment = {"KILIM_AGENT_NODE_IP": f"{V4},{V6}", "KILIM_AGENT_POD_CIDRS": "10.1.0.0/24 fd00:1::/64"}
    assert agent(**environment).exit_code == 0
    assert (started[0].node_ip, started[0].node_ipv6) == (V4, V6)
    assert started[0].pod_cidrs == ("10.1.0.0/24", "fd00:1::/64")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datapath-mode", "memory"], "--node-ip: must be given with --datapath-mode memory"),
        (["--node-ip", f"{V4},192.0.2.12"], f"--node-ip: {V4} and 192.0.2.12 are of one family"),
        (["--node-ip", V6, "--node-ip", "2001:db8::12"], "are of one family; at most one of each"),
        (["--node-ip", "192.0.2.256"], "'192.0.2.256' is not an IPv4 address"),
        (["--node-ip", "2001:db8::g"], "'2001:db8::g' is not an IPv6 address"),
        (["--node-ip", "fe80::1%eth0"], "zone"),
        (["--node-ip", "fe80::1"], '"fe80::1" is not an address that other nodes can reach'),
        (["--node-ip", "::"], '"::" is not an address'),
        (["--node-ip", "ff02::1"], '"ff02::1" is not an address'),
        (["--node-ip", V4, "--pod-cidr", "fd00:1::1/64"], "fd00:1::/64 is meant"),
        (["--node-ip", V4, "--pod-cidr", "fd00:1::/129"], "'fd00:1::/129' is not an IPv6 CIDR"),
        (["--node-ip", V4, "--servers", "2001:db8::1:4260"], "in brackets"),
    ],
)
def test_what_cannot_be_is_one_line(started: list[Settings], arguments: list[str], message: str) -> None:
    result = agent(*arguments)
    assert (result.exit_code, started) == (2, [])
    assert message in result.stderr and result.stderr.count("\n") == 1
