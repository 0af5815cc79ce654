"""What is left over in the log or on the node."""

from kilim.agent.core.link import LocalLink, PodLink, link_name, parse_alias
from kilim.agent.core.reconcile import choose_endpoint_id, plan_leftovers
from kilim.model.nouns import Endpoint


def endpoint(name: str, ip: int = 1, container_id: str = "c") -> Endpoint:
    return Endpoint("default", name, "node1", 1, ip, 300, container_id=container_id)


def link(name: str, ip: int = 1, container_id: str = "c") -> LocalLink:
    return LocalLink("lxc0", 7, "default", name, container_id, ip)


def test_an_endpoint_with_its_link_stays() -> None:
    left = plan_leftovers([endpoint("a")], [link("a")], set())
    assert not left.endpoints and not left.links


def test_an_endpoint_without_a_link_goes_unless_a_call_is_under_way() -> None:
    assert plan_leftovers([endpoint("a")], [], set()).endpoints == (endpoint("a"),)
    assert plan_leftovers([endpoint("a")], [], {"default/a"}).endpoints == ()


def test_a_link_of_another_container_does_not_keep_an_endpoint() -> None:
    left = plan_leftovers([endpoint("a")], [link("a", container_id="older")], set())
    assert left.endpoints == (endpoint("a"),) and left.links == (link("a", container_id="older"),)


def test_endpoint_ids_go_round() -> None:
    assert choose_endpoint_id(set(), 0) == 1
    assert choose_endpoint_id({2, 3}, 1) == 4
    assert choose_endpoint_id({65535}, 65534) == 1


def wanted(pod: str) -> PodLink:
    return PodLink("shop", pod, "4f1c", "eth0", "/n", (10 << 24) + 5, 1, 1500, 1450)


def test_an_alias_tells_all_to_a_process_without_memory() -> None:
    made = wanted("db-0")
    assert made.alias == "kilim:shop/db-0:4f1c:10.0.0.5"
    assert parse_alias(made.name, 9, made.alias) == LocalLink(made.name, 9, "shop", "db-0", "4f1c", made.ip)


def test_a_long_pod_name_is_cut_but_container_and_address_stay() -> None:
    made = wanted("x" * 253)
    assert len(made.alias) == 255
    parsed = parse_alias(made.name, 9, made.alias)
    assert parsed is not None and (parsed.container_id, parsed.ip) == ("4f1c", made.ip)


def test_what_is_not_ours_is_not_read() -> None:
    assert parse_alias("eth0", 1, "kilim:a/b:c:10.0.0.1") is None
    assert parse_alias("lxc1", 1, "somebody else's") is None
    assert parse_alias("lxc1", 1, "kilim:a/b:c:10.0.0.999") is None


def test_link_names_fit_and_differ() -> None:
    names = {link_name("c1", "eth0"), link_name("c1", "eth1"), link_name("c2", "eth0")}
    assert len(names) == 3 and all(len(name) == 14 for name in names)
