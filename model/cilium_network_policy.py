"""cilium.io/v2 CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: the manifest to the inner form.

A visitor would get wrong: an object is as many policies as it has specs, each with its subjects. What is parsed but not
enforced yet is refused here, with its path, once all else has been found right.

When a spec isolates its subjects in a direction:
1. As its enableDefaultDeny says, where it speaks of that direction.
2. Else if the direction has a rule, allowing or denying: `ingress: [{}]` isolates, `ingress: []` does not.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kilim.model.cilium_layer7 import NOT_YET
from kilim.model.cilium_rule import Context, parse_cilium_rule
from kilim.model.cilium_selector import check_node_selector, parse_subject_selector
from kilim.model.fields import Object, child, read_any_object, read_list, read_object, read_text
from kilim.model.invalid import Invalid
from kilim.model.names import invalid_value
from kilim.model.nouns import Policy
from kilim.model.rules import PolicyRules, Rule
from kilim.model.selector import Selector
from kilim.model.tables import ALLOW, DENY, EGRESS, ENFORCE_EGRESS, ENFORCE_INGRESS, INGRESS

CILIUM_NETWORK_POLICY = "CiliumNetworkPolicy"
CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
CILIUM_KINDS = (CILIUM_NETWORK_POLICY, CLUSTERWIDE)

_SECTIONS = (
    ("ingress", INGRESS, ALLOW),
    ("ingressDeny", INGRESS, DENY),
    ("egress", EGRESS, ALLOW),
    ("egressDeny", EGRESS, DENY),
)
_DIRECTIONS = (("ingress", ENFORCE_INGRESS), ("egress", ENFORCE_EGRESS))
_LONGEST_LOG_VALUE = 32


class CiliumSpec(NamedTuple):
    subjects: Selector
    flags: int
    rules: tuple[Rule, ...]


def compile_cilium_policy(policy: Policy, manifest: Mapping[str, object]) -> tuple[PolicyRules, ...]:
    """Raises `Invalid`."""
    specs = parse_cilium_specs(manifest, policy.namespace, policy.cidrs_include_nodes)
    return tuple(PolicyRules(policy.kind, policy.namespace, policy.name, *spec) for spec in specs)


def parse_cilium_specs(
    manifest: Mapping[str, object], namespace: str, nodes_in_cidrs: bool = False
) -> tuple[CiliumSpec, ...]:
    """`namespace` is empty for a clusterwide policy. Raises `Invalid`."""
    context = Context(namespace, [], nodes_in_cidrs)
    specs = [_parse_spec(value, path, context) for value, path in _specs_of(manifest)]
    if context.refused:
        raise context.refused[0]
    return tuple(specs)


def _specs_of(manifest: Mapping[str, object]) -> Iterator[tuple[object, str]]:
    further = read_list(manifest.get("specs"), "specs")
    if manifest.get("spec") is None and not further:
        raise Invalid("spec", "Required value: must have `spec` or `specs`")
    if manifest.get("spec") is not None:
        yield manifest["spec"], "spec"
    yield from ((value, f"specs[{number}]") for number, value in enumerate(further))


def _parse_spec(value: object, path: str, context: Context) -> CiliumSpec:
    sections = [name for name, _, _ in _SECTIONS]
    others = ("endpointSelector", "nodeSelector", "description", "labels", "enableDefaultDeny", "log")
    fields = read_object(value, path, (*sections, *others))
    subjects = _parse_subjects(fields, path, context)
    if not any(name in fields for name in sections):
        raise Invalid(path, "must have at least one of ingress, ingressDeny, egress and egressDeny")
    _check_notes(fields, path)
    rules: list[Rule] = []
    ruled: set[int] = set()
    for section, direction, action in _SECTIONS:
        section_path = child(path, section)
        for number, item in enumerate(read_list(fields.get(section), section_path)):
            matches = parse_cilium_rule(item, f"{section_path}[{number}]", section, context)
            rules.append(Rule(direction, section_path.removeprefix("spec."), number, action, *matches))
            ruled.add(direction)
    return CiliumSpec(subjects, _parse_flags(fields, path, ruled), tuple(rules))


def _parse_subjects(fields: Object, path: str, context: Context) -> Selector:
    if ("endpointSelector" in fields) == ("nodeSelector" in fields):
        raise Invalid(path, "must have one of `endpointSelector` and `nodeSelector`")
    if "endpointSelector" in fields:
        return parse_subject_selector(fields["endpointSelector"], child(path, "endpointSelector"), context.namespace)
    node_path = child(path, "nodeSelector")
    if context.namespace:
        raise Invalid(node_path, f"Forbidden: only a {CLUSTERWIDE} may select nodes")
    check_node_selector(fields["nodeSelector"], node_path)
    context.refused.append(Invalid(node_path, f"{NOT_YET}: policy of nodes themselves"))
    return Selector()


def _parse_flags(fields: Object, path: str, ruled: set[int]) -> int:
    deny_path = child(path, "enableDefaultDeny")
    wanted = read_object(fields.get("enableDefaultDeny"), deny_path, [name for name, _ in _DIRECTIONS])
    flags = 0
    for direction, (name, flag) in zip((INGRESS, EGRESS), _DIRECTIONS, strict=True):
        if not isinstance(wanted.get(name, False), bool):
            raise invalid_value(child(deny_path, name), wanted[name], "must be true or false")
        if wanted.get(name, direction in ruled):
            flags |= flag
    return flags


def _check_notes(fields: Object, path: str) -> None:
    """What is kept for people: it changes nothing."""
    read_text(fields.get("description"), child(path, "description"))
    log_path, labels_path = child(path, "log"), child(path, "labels")
    value = read_text(read_object(fields.get("log"), log_path, ("value",)).get("value"), child(log_path, "value"))
    if len(value) > _LONGEST_LOG_VALUE or not value.isprintable():
        rule = f"must be no more than {_LONGEST_LOG_VALUE} printable characters"
        raise invalid_value(child(log_path, "value"), value, rule)
    for number, item in enumerate(read_list(fields.get("labels"), labels_path)):
        label_path = f"{labels_path}[{number}]"
        label = read_object(read_any_object(item, label_path), label_path, ("key", "value", "source"))
        if not read_text(label.get("key"), child(label_path, "key")):
            raise Invalid(child(label_path, "key"), "Required value")
        for name in ("value", "source"):
            read_text(label.get(name), child(label_path, name))
