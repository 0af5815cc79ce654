"""What policies know of Services and EndpointSlices: read whatever stands in the log, never raising."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilim.model.address import parse_ip
from kilim.model.nouns import EndpointSlice, Service
from kilim.model.service import ServiceSpec, SliceSpec, service_of, slice_of

UNREADABLE = (
    "",
    "[]",
    "null",
    "7",
    "{",
    "[" * 10**5,
    '{"metadata":7}',
    '{"spec":[],"endpoints":{}}',
    '{"addressType":4}',
)
_fields = st.sampled_from(("labels", "selector", "addresses", "conditions", "ready"))
json_values = st.recursive(
    st.sampled_from((None, True, 7, "", "10.0.0.1", "IPv4")),
    lambda each: st.lists(each, max_size=2) | st.dictionaries(_fields, each, max_size=2),
    max_leaves=5,
)


def service(**manifest: object) -> ServiceSpec:
    return service_of(Service("x", "s", json.dumps(manifest)))


def part(**manifest: object) -> SliceSpec:
    return slice_of(EndpointSlice("x", "s-1", json.dumps({"addressType": "IPv4"} | manifest)))


def test_a_service_is_its_labels_and_its_selector() -> None:
    found = service(metadata={"labels": {"b": "2", "a": "1"}}, spec={"selector": {"app": "db"}})
    assert found == ServiceSpec((("a", "1"), ("b", "2")), (("app", "db"),))
    assert service(spec={}) == service() == service(spec={"selector": {}}) == ServiceSpec((), ())
    assert service(spec={"type": "ExternalName", "selector": {"app": "db"}}).selector == ()
    assert service(spec={"selector": {"app": None}}).selector == (("app", ""),)


def test_a_slice_is_its_service_and_its_addresses_in_order() -> None:
    endpoints = [{"addresses": ["10.0.0.9", "10.0.0.1"]}, {"addresses": ["10.0.0.9"]}]
    found = part(metadata={"labels": {"kubernetes.io/service-name": "s"}}, endpoints=endpoints)
    assert found == SliceSpec("s", (parse_ip("10.0.0.1"), parse_ip("10.0.0.9")))
    assert part() == SliceSpec("", ())


def test_a_slice_of_names_has_no_addresses() -> None:
    labels = {"labels": {"kubernetes.io/service-name": "s"}}
    assert part(addressType="FQDN", metadata=labels, endpoints=[{"addresses": ["a.example"]}]) == SliceSpec("s", ())


@pytest.mark.parametrize(("kind", "address"), [("IPv4", "10.0.0.1"), ("IPv6", "2001:db8::1")])
def test_a_slice_has_the_addresses_of_its_family(kind: str, address: str) -> None:
    labels = {"labels": {"kubernetes.io/service-name": "s"}}
    found = part(addressType=kind, metadata=labels, endpoints=[{"addresses": [address]}])
    assert found == SliceSpec("s", (parse_ip(address),))
    both = [{"addresses": ["10.0.0.1", "2001:db8::1"]}]
    assert part(addressType=kind, metadata=labels, endpoints=both) == SliceSpec("", ()), "nothing is read of it"


@pytest.mark.parametrize(
    ("conditions", "counts"),
    [
        ({}, True),
        (None, True),
        ({"ready": None, "terminating": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
    ],
)
def test_endpoints_count_as_long_as_they_serve(conditions: object, counts: bool) -> None:
    found = part(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}])
    assert found.addresses == ((parse_ip("10.0.0.1"),) if counts else ())


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:20])
def test_what_cannot_be_read_says_nothing(text: str) -> None:
    assert service_of(Service("x", "s", text)) == ServiceSpec((), ())
    assert slice_of(EndpointSlice("x", "s", text)) == SliceSpec("", ())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("metadata", "spec", "endpoints"), json_values)))
def test_any_json_is_read(manifest: dict[str, object]) -> None:
    service(**manifest)
    part(**manifest)
