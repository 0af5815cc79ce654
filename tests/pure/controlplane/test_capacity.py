"""What would overflow a table of any node is refused with table, size, limit and node; what shrinks one never is."""

from __future__ import annotations

from kilim.controlplane.decide.command import ChangeSetting, RemoveEndpoint
from kilim.controlplane.decide.limits import Limits
from kilim.controlplane.decide.refusal import Code
from kilim.model.desired import desired_tables
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from tests.pure.controlplane.worlds import World, apply, delete, endpoint, two_nodes


def world_of(**limits: int) -> World:
    return two_nodes(limits=Limits(**limits))


def rows_of(world: World, name: str) -> int:
    return sum(map(len, desired_tables(world.state, name).policy.values()))


def pods(name: str, who: str, from_app: str | None, *ports: int) -> Policy:
    """Pods of app `who` take connections from pods of `from_app` (None: everybody) to these ports (none: to all)."""
    rule: dict[str, object] = {"ports": [{"port": port} for port in ports]} if ports else {}
    if from_app is not None:
        rule["from"] = [{"podSelector": {"matchLabels": {"group": from_app}} if from_app else {}}]
    spec = {"podSelector": {"matchLabels": {"app": who}}, "ingress": [rule]}
    noun = parse_manifest(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec,
        }
    ).noun
    assert isinstance(noun, Policy)
    return noun


def test_endpoints_and_ipcache() -> None:
    world = world_of(endpoints=1, ipcache=4)
    world.do(endpoint("a", "10.244.0.3", 1))
    refusal = world.refusal(endpoint("b", "10.244.0.4", 2))
    assert refusal.code is Code.EXHAUSTED
    assert refusal.message == "table endpoints of node node1 holds 1 rows, 2 would be needed"
    world.do(endpoint("c", "10.244.1.4", 2, "node2"))
    refusal = world.refusal(endpoint("b", "10.244.1.5", 3, "node2"))
    assert refusal.message == "table ipcache of every node holds 4 rows, 5 would be needed"
    world.do(endpoint("c", "10.244.1.4", 2, "node2"))


def test_subjects_are_identities_not_endpoints() -> None:
    world = world_of(subjects=1)
    world.do(endpoint("a", "10.244.0.3", 1, app="a"))
    world.do(endpoint("b", "10.244.0.4", 2, app="a"))
    refusal = world.refusal(endpoint("c", "10.244.0.5", 3, app="c"))
    assert refusal.code is Code.EXHAUSTED
    assert refusal.message == "table subjects of node node1 holds 1 rows, 2 would be needed"
    world.do(endpoint("c", "10.244.1.5", 3, "node2", app="c"))


def test_a_policy_with_too_many_rows_is_refused_naming_the_node() -> None:
    world = world_of(policy=9)
    world.do(endpoint("web", "10.244.0.3", 1, app="web"))
    world.do(endpoint("a", "10.244.1.3", 1, "node2", group="x", own="a"))
    world.do(endpoint("b", "10.244.1.4", 2, "node2", group="x", own="b"))
    assert world.do(apply(pods("p", "web", "x", 80, 81, 82, 83))) is not None
    assert rows_of(world, "node1") == 9  # 2 peers x 4 ports, and the node itself
    refusal = world.refusal(apply(pods("p", "web", "x", 80, 81, 82, 83, 84)))
    assert refusal.code is Code.EXHAUSTED
    assert refusal.message == "table policy of node node1 holds 9 rows, at least 11 would be needed"


def test_a_pod_that_makes_rows_of_other_nodes_grow_is_refused() -> None:
    world = world_of(policy=9)
    world.do(endpoint("web", "10.244.0.3", 1, app="web"))
    world.do(endpoint("a", "10.244.1.3", 1, "node2", group="x", own="a"))
    world.do(endpoint("b", "10.244.1.4", 2, "node2", group="x", own="b"))
    world.do(apply(pods("p", "web", "x", 80, 81, 82, 83)))
    world.do(endpoint("same", "10.244.1.5", 3, "node2", group="x", own="b"))
    world.do(endpoint("other", "10.244.1.6", 4, "node2", group="y"))
    refusal = world.refusal(endpoint("c", "10.244.1.7", 5, "node2", group="x", own="c"))
    assert refusal.message == "table policy of node node1 holds 9 rows, at least 13 would be needed"
    world.do(delete("NetworkPolicy", "p", "shop"))
    world.do(endpoint("c", "10.244.1.7", 5, "node2", group="x", own="c"))


def test_what_was_refused_says_nothing_of_what_fits() -> None:
    """Copies of a policy that is there make no rows, however much larger they make the bound."""
    world = world_of(policy=16)
    world.do(endpoint("a", "10.244.0.3", 1, app="w", group="g"))
    ports = (80, 81, 83, 85, 87)
    world.do(apply(pods("one", "w", "g", *ports)))
    world.refusal(apply(pods("big", "w", "g", *range(101, 161, 4))))
    world.do(apply(*(pods(f"copy{number}", "w", "g", *ports) for number in range(8))))


def test_rows_count_in_the_mode_that_holds() -> None:
    world = world_of(policy=9)
    world.do(endpoint("web", "10.244.0.3", 1, app="web"))
    world.do(endpoint("a", "10.244.1.3", 1, "node2", group="x", own="a"))
    world.do(apply(pods("p", "web", "x", *range(80, 86))))
    world.do(ChangeSetting("enable-policy", "always"))
    assert rows_of(world, "node1") == 8  # 6 ports, and the node itself both ways
    fits_by_default = apply(pods("p", "web", "x", *range(80, 88)))
    assert world.refusal(fits_by_default).message.startswith("table policy of node node1 holds 9 rows")
    world.do(ChangeSetting("enable-policy", "default"))
    world.do(fits_by_default)
    refusal = world.refusal(ChangeSetting("enable-policy", "always"))
    assert refusal.code is Code.EXHAUSTED and refusal.message.startswith("table policy of node node1 holds 9 rows")


def test_where_nothing_is_enforced_there_is_a_way_back() -> None:
    world = world_of(policy=9)
    world.do(endpoint("web", "10.244.0.3", 1, app="web"))
    world.do(endpoint("a", "10.244.1.3", 1, "node2", group="x", own="a"))
    world.do(ChangeSetting("enable-policy", "never"))
    expected = "table policy of node node1 holds 9 rows, at least 13 would be needed"
    assert world.refusal(apply(pods("p", "web", "x", *range(80, 92)))).message == expected
    world.do(apply(pods("p", "web", "x", *range(80, 88))))
    assert rows_of(world, "node1") == 0
    world.do(ChangeSetting("enable-policy", "default"))
    assert rows_of(world, "node1") == 9


def test_rows_that_are_covered_do_not_count() -> None:
    world = world_of(policy=5)
    world.do(endpoint("web", "10.244.0.3", 1, app="web"))
    world.do(apply(pods("open", "web", None)))
    for number in range(8):
        world.do(endpoint(f"x{number}", f"10.244.1.{number + 3}", number + 1, "node2", group="x", own=f"x{number}"))
    world.do(apply(pods("narrow", "web", "x", 80)))
    assert world.view.bounds.rows_on("node1") > 5 >= rows_of(world, "node1")
    refusal = world.refusal(delete("NetworkPolicy", "open", "shop"))
    assert refusal.message == "table policy of node node1 holds 5 rows, at least 9 would be needed"
    world.do(delete("NetworkPolicy", "narrow", "shop"))
    world.do(delete("NetworkPolicy", "open", "shop"))


def test_a_node_that_is_over_the_limit_may_shrink_and_not_grow() -> None:
    wide = world_of()
    wide.do(endpoint("web", "10.244.0.3", 1, app="web"))
    for number in range(4):
        wide.do(endpoint(f"x{number}", f"10.244.1.{number + 3}", number + 1, "node2", group="x", own=f"x{number}"))
    wide.do(apply(pods("p", "web", "x", 80, 81, 82)))
    world = World(limits=Limits(policy=5))
    world.view.state.load(wide.state.records(), wide.state.seq)
    world.view = type(world.view)(world.view.state, world.view.defaults)
    assert "policy of node node1" in world.refusal(apply(pods("p", "web", "x", 80, 81, 82, 83))).message
    world.do(apply(pods("p", "web", "x", 80, 81)))
    assert rows_of(world, "node1") == 9
    world.do(RemoveEndpoint("node2", "shop", "x0"))
    world.do(endpoint("y", "10.244.1.99", 50, "node2", group="y"))
    world.do(delete("NetworkPolicy", "p", "shop"))
    assert rows_of(world, "node1") == 0


def test_of_a_batch_only_what_does_not_fit_is_refused() -> None:
    world = world_of(policy=9)
    world.do(endpoint("web", "10.244.0.3", 1, app="web"))
    world.do(endpoint("a", "10.244.1.3", 1, "node2", group="x"))
    outcomes = world.decide(
        apply(pods("p", "web", "x", *range(80, 85))),
        apply(pods("q", "web", "x", *range(90, 95))),
        apply(pods("r", "a", "x")),
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["Decided", "Refusal", "Decided"]
