"""Label selectors: what they match, their canonical form and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.model.invalid import Invalid
from kilim.model.selector import Selector, parse_selector

LABELS = {"app": "web", "tier": "front", "empty": ""}


def expression(key: str, operator: str, *values: str) -> dict[str, object]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        (None, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "db"}}, False),
        ({"matchLabels": {"app": "web", "tier": "back"}}, False),
        ({"matchLabels": {"empty": ""}}, True),
        ({"matchLabels": {"missing": ""}}, False),
        (expression("app", "In", "db", "web"), True),
        (expression("app", "In", "db"), False),
        (expression("missing", "In", "db"), False),
        (expression("app", "NotIn", "db"), True),
        (expression("app", "NotIn", "db", "web"), False),
        (expression("missing", "NotIn", "db"), True),
        (expression("empty", "Exists"), True),
        (expression("missing", "Exists"), False),
        (expression("empty", "DoesNotExist"), False),
        (expression("missing", "DoesNotExist"), True),
        ({"matchLabels": {"app": "web"}, **expression("tier", "NotIn", "front")}, False),
    ],
)
def test_matches(selector: object, matches: bool) -> None:
    assert parse_selector(selector, "s").matches(LABELS) is matches


def test_equal_meaning_is_one_value() -> None:
    one = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}, {"key": "b", "operator": "Exists"}]}
    other = {"matchLabels": {"a": "1"}, **expression("b", "Exists")}
    assert parse_selector(one, "s") == parse_selector(other, "s")
    assert (
        len(
            {
                parse_selector(expression("a", "In", "2", "1", "2"), "s"),
                parse_selector(expression("a", "In", "1", "2"), "s"),
            }
        )
        == 1
    )
    assert parse_selector({"matchLabels": None}, "s") == Selector()


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("123")), st.sampled_from("abc"), st.sampled_from("123"))
def test_opposites_never_agree(labels: dict[str, str], key: str, value: str) -> None:
    for positive, negative, values in (("In", "NotIn", (value,)), ("Exists", "DoesNotExist", ())):
        for_it = parse_selector(expression(key, positive, *values), "s")
        against_it = parse_selector(expression(key, negative, *values), "s")
        assert for_it.matches(labels) != against_it.matches(labels)


@pytest.mark.parametrize(
    ("selector", "path", "rule"),
    [
        (7, "s", "must be an object, not a number"),
        ({"matchlabels": {}}, "s.matchlabels", 'unknown field "matchlabels"'),
        ({"matchLabels": []}, "s.matchLabels", "must be an object, not a list"),
        ({"matchLabels": {"a": 1}}, "s.matchLabels.a", "must be a string, not a number"),
        ({"matchLabels": {"": "x"}}, "s.matchLabels", 'Invalid value: "": name part must be non-empty'),
        ({"matchLabels": {"a/b/c": "x"}}, "s.matchLabels", 'Invalid value: "a/b/c": a qualified name must consist'),
        ({"matchLabels": {"/c": "x"}}, "s.matchLabels", 'Invalid value: "/c": prefix part must be non-empty'),
        ({"matchLabels": {"A/c": "x"}}, "s.matchLabels", 'Invalid value: "A/c": prefix part a lowercase RFC 1123'),
        (
            {"matchLabels": {"a": "-x"}},
            "s.matchLabels",
            'Invalid value: "-x": a valid label must be an empty string or',
        ),
        ({"matchLabels": {"a": "x" * 64}}, "s.matchLabels", "must be no more than 63 characters"),
        ({"matchLabels": {"a\n": "x"}}, "s.matchLabels", "name part must consist of"),
        ({"matchExpressions": {}}, "s.matchExpressions", "must be a list, not an object"),
        (expression("a", "in", "x"), "s.matchExpressions[0].operator", 'Invalid value: "in": not a valid selector'),
        (expression("a", "In"), "s.matchExpressions[0].values", "Required value: must be specified when `operator` is"),
        (expression("a", "Exists", "x"), "s.matchExpressions[0].values", "Forbidden: may not be specified when"),
        (expression("a", "In", "x", "y z"), "s.matchExpressions[0].values[1]", 'Invalid value: "y z": a valid label'),
        (expression("a b", "Exists"), "s.matchExpressions[0].key", 'Invalid value: "a b": name part must consist of'),
        ({"matchExpressions": [None]}, "s.matchExpressions[0].operator", 'Invalid value: "": not a valid selector'),
        ({3: "x"}, "s", "Invalid value: 3: a field name must be a string"),
    ],
)
def test_refused(selector: object, path: str, rule: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_selector(selector, "s")
    assert refusal.value.path == path
    assert rule in refusal.value.rule
