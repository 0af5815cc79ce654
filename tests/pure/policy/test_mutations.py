"""Every node of whole manifests in turn is something else: it is one line with the field, or an object like others.

What is accepted keeps its meaning (its canonical JSON is read as the same object), can be decided beside others, and is
compiled as what it says, not as something unreadable.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from kilim.controlplane.decide.decided import Decided
from kilim.model.cilium_layer7 import NOT_YET
from kilim.model.cilium_network_policy import CILIUM_KINDS, parse_cilium_specs
from kilim.model.cilium_rule import NOT_SUPPORTED
from kilim.model.cluster_network_policy import CLUSTER_NETWORK_POLICY, parse_cluster_network_policy_spec
from kilim.model.compile import parts_as_written
from kilim.model.invalid import Invalid
from kilim.model.nouns import Policy
from kilim.model.resource import NETWORK_POLICY, parse_manifest
from tests.data.manifests import FOLDER
from tests.pure.controlplane.worlds import World, apply

Steps = tuple[str | int, ...]

OTHERS: tuple[Any, ...] = (None, "", 0, -1, 1.5, True, [], {}, "x" * 100_000, [None], {"": None}, "\n", 10**30)
BESIDE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "beside"}}
LONGEST_LINE = 700


def whole_manifests() -> Iterator[tuple[dict[str, Any], bool]]:
    """(manifest, whether it is enforced)"""
    for manifest in yaml.safe_load((FOLDER / "whole.yaml").read_text()):
        enforced = manifest.pop("enforced", True)
        yield manifest, enforced


def places(value: Any, above: Steps = ()) -> Iterator[Steps]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*above, step)
        yield from places(inner, (*above, step))


def with_other(manifest: dict[str, Any], steps: Steps, other: Any) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    at: Any = changed
    for step in steps[:-1]:
        at = at[step]
    at[steps[-1]] = other
    return changed


def written(steps: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def is_about(path: str, steps: Steps) -> bool:
    """Whether the path is of the place, of what is in it, of what it is in, or beside it (a rule about both)."""
    beside = written(steps[:-1])
    return path.startswith(beside) or written(steps).startswith(path)


def fault_of(manifest: dict[str, Any], steps: Steps) -> str:
    """What is wrong with the answer to it; nothing where it is a good one."""
    try:
        resource = parse_manifest(manifest)
    except Invalid as error:
        line = str(error)
        if "\n" in line or len(line) > LONGEST_LINE or not error.rule:
            return f"no good line: {line[:200]!r}"
        elsewhere = error.rule.startswith((NOT_YET, NOT_SUPPORTED)) or "combined" in error.rule
        return "" if elsewhere or is_about(error.path, steps) else f"about something else: {line[:200]}"
    noun = resource.noun
    again = parse_manifest(json.loads(resource.manifest_json))
    if (again.noun, again.manifest_json) != (noun, resource.manifest_json):
        return "not the same when read again"
    if isinstance(noun, Policy) and not is_readable(noun):
        return "compiled as unreadable"
    world = World()
    (outcome,) = world.decide(apply(parse_manifest(BESIDE).noun, noun))
    if not isinstance(outcome, Decided):
        return f"refused when decided: {outcome.message}"
    world.happen(outcome)
    return ""


def is_readable(policy: Policy) -> bool:
    """As many parts, with as many rules, as its own parser finds."""
    manifest = json.loads(policy.manifest_json)
    found = [len(part.rules) for part in parts_as_written(policy)]
    if policy.kind in CILIUM_KINDS:
        return found == [len(spec.rules) for spec in parse_cilium_specs(manifest, policy.namespace)]
    if policy.kind == CLUSTER_NETWORK_POLICY:
        return found == [len(parse_cluster_network_policy_spec(manifest["spec"]).rules)]
    return len(found) == (policy.kind == NETWORK_POLICY)


@pytest.mark.parametrize(
    ("manifest", "enforced"), list(whole_manifests()), ids=lambda each: each if isinstance(each, bool) else each["kind"]
)
def test_anything_else_anywhere_is_one_line_or_an_object(manifest: dict[str, Any], enforced: bool) -> None:
    if enforced:
        assert fault_of(manifest, ()) == ""
    faults, asked = [], 0
    for steps in places(manifest):
        for other in OTHERS:
            asked += 1
            fault = fault_of(with_other(manifest, steps, other), steps)
            if fault:
                faults.append(f"{written(steps)} = {str(other)[:20]!r}: {fault}")
    assert faults == []
    assert asked > 100
