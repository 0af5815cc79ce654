"""Label selectors: a conjunction of requirements over a map of labels.

A visitor would get wrong: the empty selector matches everything (a missing selector is the caller's to interpret), and
NotIn also matches objects that have no such key.

Canonical form, so that equal meaning is mostly equal value:
1. matchLabels `k: v` is the requirement `k In (v)`.
2. Values are sorted without repeats; requirements are sorted without repeats.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from kilim.model.fields import child, read_list, read_object, read_text, read_text_map
from kilim.model.invalid import Invalid
from kilim.model.names import check_label_value, check_qualified_name, invalid_value

IN = "In"
NOT_IN = "NotIn"
EXISTS = "Exists"
DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == IN:
            return value is not None and value in self.values
        if self.operator == NOT_IN:
            return value is None or value not in self.values
        return (value is not None) == (self.operator == EXISTS)

    def __str__(self) -> str:
        if self.operator == IN and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        if self.operator in (IN, NOT_IN):
            return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"
        return self.key if self.operator == EXISTS else f"!{self.key}"


class Selector(NamedTuple):
    """Made by `selector_of` or `parse_selector`, which put it into canonical form."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """`k8s:app=web,tier in (a,b),!old`"""
        return ",".join(map(str, self.requirements))


def selector_of(requirements: Iterable[Requirement]) -> Selector:
    canonical = {Requirement(r.key, r.operator, tuple(sorted(set(r.values)))) for r in requirements}
    return Selector(tuple(sorted(canonical)))


def plain_key(text: str, path: str) -> str:
    check_qualified_name(text, path)
    return text


def parse_selector(value: object, path: str, read_key: Callable[[str, str], str] = plain_key) -> Selector:
    """A LabelSelector of a manifest. `read_key` checks a key at its path and says what it is called inside. Raises
    `Invalid`."""
    fields = read_object(value, path, ("matchLabels", "matchExpressions"))
    match_labels_path = child(path, "matchLabels")
    match_labels = read_text_map(fields.get("matchLabels"), match_labels_path)
    requirements = []
    for key in sorted(match_labels):
        name = read_key(key, match_labels_path)
        check_label_value(match_labels[key], match_labels_path)
        requirements.append(Requirement(name, IN, (match_labels[key],)))
    expressions_path = child(path, "matchExpressions")
    for number, expression in enumerate(read_list(fields.get("matchExpressions"), expressions_path)):
        requirements.append(_parse_expression(expression, f"{expressions_path}[{number}]", read_key))
    return selector_of(requirements)


def _parse_expression(value: object, path: str, read_key: Callable[[str, str], str]) -> Requirement:
    fields = read_object(value, path, ("key", "operator", "values"))
    key_path, operator_path, values_path = (child(path, name) for name in ("key", "operator", "values"))
    key = read_text(fields.get("key"), key_path)
    operator = read_text(fields.get("operator"), operator_path)
    values = [
        read_text(each, f"{values_path}[{i}]") for i, each in enumerate(read_list(fields.get("values"), values_path))
    ]
    if operator in (IN, NOT_IN):
        if not values:
            raise Invalid(values_path, "Required value: must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in (EXISTS, DOES_NOT_EXIST):
        if values:
            raise Invalid(values_path, "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    else:
        raise invalid_value(operator_path, operator, "not a valid selector operator")
    name = read_key(key, key_path)
    for number, text in enumerate(values):
        check_label_value(text, f"{values_path}[{number}]")
    return Requirement(name, operator, tuple(values))
