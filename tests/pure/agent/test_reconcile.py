"""What is left over in the log or on the node."""

from dataclasses import replace

import pytest

from kilim.agent.core.link import LocalLink, PodLink, link_name, parse_alias
from kilim.agent.core.reconcile import choose_endpoint_id, plan_leftovers
from kilim.model.address import parse_ip
from kilim.model.nouns import Endpoint

IPV4, IPV6 = parse_ip("10.0.0.5"), parse_ip("fd00:10::5")


def endpoint(name: str, ip: int = 1, container_id: str = "c") -> Endpoint:
    return Endpoint("default", name, "node1", 1, ip, 300, container_id=container_id)


def link(name: str, ip: int = 1, container_id: str = "c") -> LocalLink:
    return LocalLink("lxc0", 7, "default", name, container_id, 1, (ip,))


def test_an_endpoint_with_its_link_stays() -> None:
    left = plan_leftovers([endpoint("a")], [link("a")], set())
    assert not left.endpoints and not left.links


def test_an_endpoint_without_a_link_goes_unless_a_call_is_under_way() -> None:
    assert plan_leftovers([endpoint("a")], [], set()).endpoints == (endpoint("a"),)
    assert plan_leftovers([endpoint("a")], [], {"default/a"}).endpoints == ()


def test_a_link_of_another_container_does_not_keep_an_endpoint() -> None:
    left = plan_leftovers([endpoint("a")], [link("a", container_id="older")], set())
    assert left.endpoints == (endpoint("a"),) and left.links == (link("a", container_id="older"),)


def test_one_address_in_common_is_enough() -> None:
    dual = LocalLink("lxc0", 7, "default", "a", "c", 1, (IPV4, IPV6))
    for ips in ((IPV4, 0), (0, IPV6), (IPV4, IPV6)):
        left = plan_leftovers([replace(endpoint("a", ips[0]), ipv6=ips[1])], [dual], set())
        assert not left.endpoints and not left.links
    left = plan_leftovers([replace(endpoint("a", IPV4 + 1), ipv6=IPV6 + 1)], [dual], set())
    assert left.endpoints and left.links == (dual,)


def test_endpoint_ids_go_round() -> None:
    assert choose_endpoint_id(set(), 0) == 1
    assert choose_endpoint_id({2, 3}, 1) == 4
    assert choose_endpoint_id({65535}, 65534) == 1


def wanted(pod: str, ips: tuple[int, ...] = (IPV4, IPV6)) -> PodLink:
    return PodLink("shop", pod, "4f1c", 7, "eth0", "/n", ips, (1,), 1500, 1450)


@pytest.mark.parametrize(
    ("ips", "text"), [((IPV4,), "10.0.0.5"), ((IPV6,), "fd00:10::5"), ((IPV4, IPV6), "10.0.0.5,fd00:10::5")]
)
def test_an_alias_tells_all_to_a_process_without_memory(ips: tuple[int, ...], text: str) -> None:
    made = wanted("db-0", ips)
    assert made.alias == f"kilim:shop/db-0:4f1c:7:{text}"
    assert parse_alias(made.name, 9, made.alias) == LocalLink(made.name, 9, "shop", "db-0", "4f1c", 7, ips)


def test_a_long_pod_name_is_cut_but_container_and_addresses_stay() -> None:
    made = wanted("x" * 253)
    assert len(made.alias) == 255
    parsed = parse_alias(made.name, 9, made.alias)
    assert parsed is not None and (parsed.container_id, parsed.endpoint_id, parsed.ips) == ("4f1c", 7, made.ips)


def test_a_pod_of_an_agent_before_ipv6_is_known() -> None:
    assert parse_alias("lxc1", 9, "kilim:a/b:c:10.0.0.5") == LocalLink("lxc1", 9, "a", "b", "c", 0, (IPV4,))


@pytest.mark.parametrize(
    "alias",
    [
        "somebody else's",
        "kilim:a/b:c:1:10.0.0.999",
        "kilim:a/b:c:1:fd00::g",
        "kilim:a/b:c:1:",
        "kilim:a/b:c:x:10.0.0.1",
        "kilim:a/b:c:0x1",
        "kilim:a/b:c:1:10.0.0.1,fd00::1,fd00::2",
        "kilim:ab:c:1:10.0.0.1",
    ],
)
def test_what_is_not_ours_is_not_read(alias: str) -> None:
    assert parse_alias("eth0", 1, "kilim:a/b:c:1:10.0.0.1") is None
    assert parse_alias("lxc1", 1, alias) is None


def test_link_names_fit_and_differ() -> None:
    names = {link_name("c1", "eth0"), link_name("c1", "eth1"), link_name("c2", "eth0")}
    assert len(names) == 3 and all(len(name) == 14 for name in names)
