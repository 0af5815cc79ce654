"""Policies and their CIDR identities; several objects at once."""

from __future__ import annotations

from kilim.controlplane.decide.command import ChangeSetting, DeleteObjects, ObjectsChanged, Ref
from kilim.controlplane.decide.refusal import Code
from kilim.model.nouns import Namespace, Pod
from kilim.model.settings import LOG_RETENTION_EVENTS
from tests.pure.controlplane.worlds import World, apply, delete, policy

FIRST = 1 << 24


def actions(result: object) -> list[str]:
    assert isinstance(result, ObjectsChanged)
    return [each.action for each in result.results]


def test_cidrs_get_identities_before_the_policy_and_lose_them_after_it() -> None:
    world = World()
    assert actions(world.do(apply(policy("p", "10.0.0.0/8", excepts=("10.1.0.0/16",))))) == ["created"]
    assert world.bodies == ["identity_allocated", "identity_allocated", "policy_replaced"]
    assert [world.state.identities[n].labels for n in (FIRST, FIRST + 1)] == [
        ("cidr:10.0.0.0/8", "reserved:world"),
        ("cidr:10.1.0.0/16", "reserved:world"),
    ]
    assert actions(world.do(apply(policy("p", "10.0.0.0/8", excepts=("10.1.0.0/16",))))) == ["unchanged"]
    assert world.bodies == []
    assert actions(world.do(apply(policy("p", "10.0.0.0/8")))) == ["configured"]
    assert world.bodies == ["policy_replaced", "identity_released"]
    assert list(world.state.identities) == [FIRST]


def test_a_cidr_that_another_policy_names_stays() -> None:
    world = World()
    world.do(apply(policy("p", "10.0.0.0/8", "172.16.0.0/12"), policy("q", "10.0.0.0/8")))
    world.do(delete("NetworkPolicy", "p", "shop"))
    assert world.bodies == ["policy_removed", "identity_released"]
    assert list(world.state.identities) == [FIRST]
    world.do(delete("NetworkPolicy", "q", "shop"))
    assert list(world.state.identities) == []


def test_a_cidr_that_moves_between_policies_keeps_its_number() -> None:
    world = World()
    world.do(apply(policy("p", "10.0.0.0/8")))
    world.do(apply(policy("p"), policy("q", "10.0.0.0/8")))
    assert world.bodies == ["policy_replaced", "policy_replaced"]


def test_all_objects_or_none() -> None:
    world = World()
    world.view.cidr_numbers.last = FIRST
    refusal = world.refusal(apply(Namespace("shop"), policy("p", "10.0.0.0/8"), policy("q", "10.0.0.0/9")))
    assert refusal.code is Code.EXHAUSTED
    assert refusal.message.startswith("t.yaml: document 3: NetworkPolicy shop/q: identities ")
    assert len(world.state.namespaces) == len(world.state.policies) == 0


def test_delete_is_all_or_none_too_unless_not_found_is_ignored() -> None:
    world = World()
    world.do(apply(Namespace("shop"), Pod("shop", "db")))
    refs = (Ref("Pod", "shop", "db"), Ref("Pod", "shop", "gone", "d.yaml: document 2"))
    refusal = world.refusal(DeleteObjects(refs))
    assert refusal.code is Code.NOT_FOUND
    assert refusal.message == "d.yaml: document 2: Pod shop/gone: not found"
    assert actions(world.do(DeleteObjects(refs, ignore_not_found=True))) == ["deleted", "not found"]
    assert world.bodies == ["pod_removed"]


def test_unknown_kinds_are_named() -> None:
    refusal = World().refusal(delete("Gateway", "x"))
    assert refusal.code is Code.INVALID
    assert refusal.message.startswith("t.yaml: kind: 'Gateway' must be one of NetworkPolicy")


def test_settings() -> None:
    world = World()
    world.do(ChangeSetting("identity-release-grace-s", "5"))
    assert world.bodies == ["setting_changed"]
    world.do(ChangeSetting("identity-release-grace-s", "5"))
    assert world.bodies == []
    assert (
        "must be one of allow-localhost, cluster-pool-ipv4-cidr, cluster-pool-ipv4-mask-size, "
        in world.refusal(ChangeSetting("colour", "red")).message
    )
    assert world.refusal(ChangeSetting("identity-release-grace-s", "soon")).code is Code.INVALID
    assert "/24" in world.refusal(ChangeSetting("cluster-pool-ipv4-cidr", "10.0.0.0/25")).message


def test_settings_that_are_numbers_have_limits() -> None:
    world = World()
    assert LOG_RETENTION_EVENTS.read(world.state) == 200_000
    world.do(ChangeSetting("log-retention-events", "5000"))
    assert LOG_RETENTION_EVENTS.read(world.state) == 5000
    for value in ("9", "-1", "1e3", "many", "100000001"):
        refusal = world.refusal(ChangeSetting("log-retention-events", value))
        assert refusal.message == ("setting log-retention-events: must be a number of events from 10 to 100000000")
    world.do(ChangeSetting("log-retention-events", ""))
    assert LOG_RETENTION_EVENTS.read(world.state) == 200_000
