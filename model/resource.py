"""Manifests in and out: which kinds there are, their metadata, their noun and their canonical JSON.

A visitor would get wrong: every noun keeps its manifest (canonical JSON), but for a Namespace and a Pod; of a Pod only
what matters to networking is read, and every other field of its spec is accepted unseen.

Canonical JSON:
1. Keys sorted, no white space, ASCII.
2. Of metadata only name, namespace, labels and annotations (not the one that kubectl keeps for itself); no status.
3. The namespace is spelled out for kinds that have one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.cidr_group import CIDR_GROUP, parse_cidr_group_spec
from kilim.model.cilium_network_policy import CILIUM_NETWORK_POLICY, CLUSTERWIDE, parse_cilium_specs
from kilim.model.cluster_network_policy import CLUSTER_NETWORK_POLICY, parse_cluster_network_policy_spec
from kilim.model.endpoint_slice import FIELDS as SLICE_FIELDS
from kilim.model.endpoint_slice import check_endpoint_slice
from kilim.model.fields import Object, read_any_object, read_object, read_text, read_text_map, refuse_nulls
from kilim.model.invalid import Invalid
from kilim.model.labels import NAMESPACE_NAME_LABEL, sorted_pairs
from kilim.model.names import check_dns_label, check_dns_subdomain, check_labels, check_qualified_name
from kilim.model.network_policy import parse_network_policy_spec
from kilim.model.nouns import EndpointSlice, Namespace, Pod, Policy, Service
from kilim.model.pod import parse_pod_spec, pod_spec_of
from kilim.model.service import ENDPOINT_SLICE, SERVICE
from kilim.model.service_manifest import check_service_name, check_service_spec

DEFAULT_NAMESPACE = "default"
NETWORK_POLICY = "NetworkPolicy"

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_ANNOTATIONS_LIMIT_BYTES = 256 * 1024
_CILIUM = ("cilium.io/v2", "cilium.io/v2alpha1")
_OBJECT_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_KEPT_METADATA = ("name", "namespace", "labels", "annotations")
_DROPPED_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


_CUSTOM_GROUPS = ("cilium.io", "policy.networking.k8s.io")


Noun = Policy | Namespace | Pod | Service | EndpointSlice


@dataclass(frozen=True, slots=True)
class Resource:
    """`manifest_json` is canonical; a noun other than a Namespace and a Pod has it too."""

    noun: Noun
    manifest_json: str


class _Metadata(NamedTuple):
    name: str
    namespace: str
    labels: dict[str, str]


class _Kind(NamedTuple):
    api_versions: tuple[str, ...]  # the one to be used first
    namespaced: bool
    check_name: Callable[[str, str], None]
    noun: Callable[[_Metadata, Object, str], Noun]
    fields: tuple[str, ...] = _OBJECT_FIELDS

    @property
    def is_custom(self) -> bool:
        """Defined by a CustomResourceDefinition, whose schema is checked before anything else."""
        return self.api_versions[0].partition("/")[0] in _CUSTOM_GROUPS


def _network_policy(metadata: _Metadata, fields: Object, manifest_json: str) -> Policy:
    parse_network_policy_spec(fields.get("spec"))
    return Policy(NETWORK_POLICY, metadata.namespace, metadata.name, manifest_json)


def _cluster_network_policy(metadata: _Metadata, fields: Object, manifest_json: str) -> Policy:
    parse_cluster_network_policy_spec(fields.get("spec"))
    return Policy(CLUSTER_NETWORK_POLICY, "", metadata.name, manifest_json)


def _cilium_policy(kind: str) -> Callable[[_Metadata, Object, str], Policy]:
    def noun(metadata: _Metadata, fields: Object, manifest_json: str) -> Policy:
        parse_cilium_specs(fields, metadata.namespace)
        return Policy(kind, metadata.namespace, metadata.name, manifest_json)

    return noun


def _cidr_group(metadata: _Metadata, fields: Object, manifest_json: str) -> Policy:
    parse_cidr_group_spec(fields.get("spec"))
    return Policy(CIDR_GROUP, "", metadata.name, manifest_json)


def _namespace(metadata: _Metadata, fields: Object, _: str) -> Namespace:
    return Namespace(metadata.name, sorted_pairs(metadata.labels))


def _pod(metadata: _Metadata, fields: Object, _: str) -> Pod:
    spec = parse_pod_spec(fields.get("spec"), "spec")
    labels = sorted_pairs(metadata.labels)
    return Pod(metadata.namespace, metadata.name, labels, spec.service_account, spec.named_ports)


def _service(metadata: _Metadata, fields: Object, manifest_json: str) -> Service:
    check_service_spec(fields.get("spec"))
    return Service(metadata.namespace, metadata.name, manifest_json)


def _endpoint_slice(metadata: _Metadata, fields: Object, manifest_json: str) -> EndpointSlice:
    check_endpoint_slice(fields)
    return EndpointSlice(metadata.namespace, metadata.name, manifest_json)


KINDS = {
    "NetworkPolicy": _Kind(("networking.k8s.io/v1",), True, check_dns_subdomain, _network_policy),
    CLUSTER_NETWORK_POLICY: _Kind(
        ("policy.networking.k8s.io/v1alpha2",), False, check_dns_subdomain, _cluster_network_policy
    ),
    "Namespace": _Kind(("v1",), False, check_dns_label, _namespace),
    "Pod": _Kind(("v1",), True, check_dns_subdomain, _pod),
    SERVICE: _Kind(("v1",), True, check_service_name, _service),
    ENDPOINT_SLICE: _Kind(
        ("discovery.k8s.io/v1",),
        True,
        check_dns_subdomain,
        _endpoint_slice,
        ("apiVersion", "kind", "metadata", *SLICE_FIELDS),
    ),
    **{
        kind: _Kind(_CILIUM[:1], namespaced, check_dns_subdomain, _cilium_policy(kind), (*_OBJECT_FIELDS, "specs"))
        for kind, namespaced in ((CILIUM_NETWORK_POLICY, True), (CLUSTERWIDE, False))
    },
    CIDR_GROUP: _Kind(_CILIUM, False, check_dns_subdomain, _cidr_group),
}


def namespace_of(kind: str, namespace: str) -> str:
    """Where an object is: in `default` where none is named, in none where its kind has none."""
    namespaced = KINDS[kind].namespaced if kind in KINDS else kind == "Endpoint"
    return (namespace or DEFAULT_NAMESPACE) if namespaced else ""


def parse_manifest(obj: object) -> Resource:
    """One manifest. Raises `Invalid` with the path of the first field that breaks a rule."""
    fields = read_any_object(obj, "")
    name = read_text(fields.get("kind"), "kind")
    kind = _kind_of(name, read_text(fields.get("apiVersion"), "apiVersion"))
    read_object(fields, "", kind.fields)
    if kind.is_custom:
        for field in ("spec", "specs"):
            refuse_nulls(fields.get(field), field)
        refuse_nulls(read_any_object(fields.get("metadata"), "metadata").get("labels"), "metadata.labels")
    metadata = _parse_metadata(fields.get("metadata"), kind)
    if name == "Namespace":
        metadata.labels[NAMESPACE_NAME_LABEL] = metadata.name
    shown = dict(read_any_object(fields.get("metadata"), "metadata"))
    if kind.namespaced:
        shown["namespace"] = metadata.namespace
    if metadata.labels:
        shown["labels"] = metadata.labels
    manifest_json = canonical_json({**fields, "metadata": shown})
    return Resource(kind.noun(metadata, fields, manifest_json), manifest_json)


def _kind_of(name: str, api_version: str) -> _Kind:
    kind = KINDS.get(name)
    if not name:
        raise Invalid("kind", "Required value")
    if kind is None:
        supported = ", ".join(f"{KINDS[each].api_versions[0]} {each}" for each in sorted(KINDS))
        raise Invalid("kind", f"{json.dumps(name)[:120]} is not supported; supported: {supported}")
    if not api_version:
        raise Invalid("apiVersion", "Required value")
    if api_version not in kind.api_versions:
        supported = " or ".join(kind.api_versions)
        raise Invalid("apiVersion", f"{json.dumps(api_version)[:120]} has no {name}; it must be {supported}")
    return kind


def _parse_metadata(value: object, kind: _Kind) -> _Metadata:
    fields = read_object(value, "metadata", _KEPT_METADATA + _DROPPED_METADATA)
    name = read_text(fields.get("name"), "metadata.name")
    if not name:
        raise Invalid("metadata.name", "Required value: name is required")
    kind.check_name(name, "metadata.name")
    namespace = read_text(fields.get("namespace"), "metadata.namespace")
    if kind.namespaced:
        namespace = namespace or DEFAULT_NAMESPACE
        check_dns_label(namespace, "metadata.namespace")
    elif namespace:
        raise Invalid("metadata.namespace", "Forbidden: not allowed on this type")
    labels = dict(read_text_map(fields.get("labels"), "metadata.labels"))
    check_labels(labels, "metadata.labels")
    annotations = read_text_map(fields.get("annotations"), "metadata.annotations")
    for key in sorted(annotations):
        check_qualified_name(key.lower(), "metadata.annotations")
    if sum(len(key) + len(text) for key, text in annotations.items()) > _ANNOTATIONS_LIMIT_BYTES:
        raise Invalid("metadata.annotations", f"Too long: may not be more than {_ANNOTATIONS_LIMIT_BYTES} bytes")
    return _Metadata(name, namespace, labels)


def canonical_json(obj: Object) -> str:
    """See the list at the top. Raises `Invalid` where a value is nothing that JSON can say."""
    metadata = read_any_object(obj.get("metadata"), "metadata")
    kept = {key: metadata[key] for key in _KEPT_METADATA if key in metadata}
    annotations = {
        key: text
        for key, text in read_any_object(kept.pop("annotations", None), "metadata.annotations").items()
        if key != _LAST_APPLIED
    }
    if annotations:
        kept["annotations"] = annotations
    body = {key: value for key, value in obj.items() if key not in ("metadata", "status")}
    try:
        return json.dumps({**body, "metadata": kept}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Invalid("spec", "must hold nothing but JSON values") from None


def manifest_of(noun: Noun) -> Object:
    """The manifest of a noun, such that `parse_manifest(manifest_of(noun)).noun == noun` for what was parsed."""
    if isinstance(noun, Policy | Service | EndpointSlice):
        manifest: Object = json.loads(noun.manifest_json)
        return manifest
    metadata: Object = {"name": noun.name}
    if isinstance(noun, Pod):
        metadata["namespace"] = noun.namespace
    if noun.labels:
        metadata["labels"] = dict(noun.labels)
    manifest = {"apiVersion": "v1", "kind": type(noun).__name__, "metadata": metadata}
    if isinstance(noun, Pod):
        manifest["spec"] = pod_spec_of(noun)
    return manifest
