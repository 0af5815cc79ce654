"""Services and EndpointSlices: what of them matters to policy, read from the objects as they were applied.

A visitor would get wrong: an object that a newer version wrote may say what this one cannot read; then it says nothing
(I1): a service without labels and selector, a slice without addresses.
"""

import json
from functools import lru_cache
from typing import NamedTuple

from kilim.model.address import parse_ipv4, parse_ipv6
from kilim.model.fields import Object, read_any_object, read_list, read_text, read_text_map
from kilim.model.labels import LabelPairs, sorted_pairs
from kilim.model.nouns import EndpointSlice, Service

SERVICE = "Service"
ENDPOINT_SLICE = "EndpointSlice"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_FAMILIES = {"IPv4": parse_ipv4, "IPv6": parse_ipv6}


class ServiceSpec(NamedTuple):
    labels: LabelPairs
    selector: LabelPairs  # empty: it selects no pods, its slices say who is behind it; ExternalName has none


class SliceSpec(NamedTuple):
    """`addresses`: of either family, sorted, of its endpoints that are ready or still serve."""

    service: str  # of the same namespace; "" if none
    addresses: tuple[int, ...]


@lru_cache(maxsize=1024)
def service_of(service: Service) -> ServiceSpec:
    """A memo of a pure function."""
    try:
        manifest = read_any_object(json.loads(service.manifest_json), "")
        spec = read_any_object(manifest.get("spec"), "spec")
        selector = None if spec.get("type") == "ExternalName" else spec.get("selector")
        return ServiceSpec(_labels(manifest), sorted_pairs(read_text_map(selector, "spec.selector")))
    except (ValueError, RecursionError):
        return ServiceSpec((), ())


@lru_cache(maxsize=1024)
def slice_of(part: EndpointSlice) -> SliceSpec:
    """A memo of a pure function."""
    try:
        manifest = read_any_object(json.loads(part.manifest_json), "")
        service = dict(_labels(manifest)).get(SERVICE_NAME_LABEL, "")
        family = read_text(manifest.get("addressType"), "addressType")
        if family not in _FAMILIES:
            return SliceSpec(service, ())
        endpoints = [read_any_object(each, "endpoints") for each in read_list(manifest.get("endpoints"), "endpoints")]
        texts = [text for each in endpoints if _serves(each) for text in read_list(each.get("addresses"), "addresses")]
        return SliceSpec(service, tuple(sorted({_FAMILIES[family](read_text(text, "addresses")) for text in texts})))
    except (ValueError, RecursionError):
        return SliceSpec("", ())


def _labels(manifest: Object) -> LabelPairs:
    metadata = read_any_object(manifest.get("metadata"), "metadata")
    return sorted_pairs(read_text_map(metadata.get("labels"), "metadata.labels"))


def _serves(endpoint: Object) -> bool:
    """Ready, where nothing is said; one that terminates may serve on."""
    conditions = read_any_object(endpoint.get("conditions"), "conditions")
    return conditions.get("ready", True) is True or conditions.get("serving") is True
