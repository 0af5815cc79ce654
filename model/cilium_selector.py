"""Label selectors of cilium.io: their keys have a source (`k8s:app`, `any:app`, `reserved:host`), none means any.

A visitor would get wrong: a key of any source is looked for among the Kubernetes labels, as endpoints have no others;
and a CiliumNetworkPolicy looks into its own namespace unless the selector itself speaks of namespaces.

What a selector of peers selects, first that holds:
1. With a `reserved:` key: what has these labels, nothing is added.
2. With a key that is the pod's namespace or a label of it: endpoints of the namespaces that it says.
3. Else endpoints of the policy's namespace; in a clusterwide policy, of all namespaces.
In 2 and 3 only endpoints that have a namespace: neither nodes nor anything outside, whatever NotIn may match.
"""

import re

from kilim.model.fields import read_any_object, read_text_map
from kilim.model.identity import RESERVED_NAMES
from kilim.model.invalid import Invalid
from kilim.model.labels import NAMESPACE, NAMESPACE_LABELS_PREFIX
from kilim.model.names import check_qualified_name, unsupported_value
from kilim.model.node_selector import NODE_SOURCE, nodes_where
from kilim.model.rules import Peer
from kilim.model.selector import EXISTS, IN, Requirement, Selector, parse_selector, selector_of

_ANY = "any:"
_KUBERNETES = "k8s:"
_RESERVED = "reserved:"
_MATCHES_SOURCE = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?").fullmatch


def parse_peer_selector(value: object, path: str, namespace: str) -> Selector:
    """`namespace` is empty in a clusterwide policy. Raises `Invalid`."""
    requirements = _inner(parse_selector(value, path, _read_key))
    keys = {each.key for each in requirements}
    if any(key.startswith(_RESERVED) for key in keys):
        return selector_of(requirements)
    spoken_of = any(key == NAMESPACE or key.startswith(NAMESPACE_LABELS_PREFIX) for key in keys)
    if namespace and not spoken_of:
        return selector_of([*requirements, Requirement(NAMESPACE, IN, (namespace,))])
    return selector_of([*requirements, Requirement(NAMESPACE, EXISTS)])


def parse_subject_selector(value: object, path: str, namespace: str) -> Selector:
    """Of a CiliumNetworkPolicy always in its own namespace: another in `matchLabels` with `k8s:` does not count, one
    elsewhere selects nobody."""
    parsed = parse_selector(value, path, _read_key)
    if not namespace:
        return selector_of(_inner(parsed))
    fields = read_any_object(value, path)
    labels = {key: text for key, text in read_text_map(fields.get("matchLabels"), path).items() if key != NAMESPACE}
    counting = parse_selector({**fields, "matchLabels": labels}, path, _read_key)
    return selector_of([*_inner(counting), Requirement(NAMESPACE, IN, (namespace,))])


def parse_node_selector(value: object, path: str) -> list[Peer]:
    """Of `fromNodes` and `toNodes`. Labels of nodes come from Kubernetes and are of the source `node`: a key of `k8s:`,
    `node:` or any source is one of theirs. Raises `Invalid`."""
    requirements = [
        each._replace(key=NODE_SOURCE + each.key.partition(":")[2])
        if each.key.startswith((_ANY, _KUBERNETES))
        else each
        for each in parse_selector(value, path, _read_key).requirements
    ]
    return nodes_where(selector_of(requirements), NODE_SOURCE)


def parse_object_selector(value: object, path: str) -> Selector:
    """Over the plain labels of a Kubernetes object: a key of `k8s:` or any source is one of them. Raises `Invalid`."""
    requirements = parse_selector(value, path, _read_key).requirements
    return selector_of(
        each._replace(key=each.key.partition(":")[2]) if each.key.startswith((_ANY, _KUBERNETES)) else each
        for each in requirements
    )


def check_node_selector(value: object, path: str) -> None:
    parse_selector(value, path, _read_key)


def _read_key(text: str, path: str) -> str:
    source, colon, name = text.partition(":")
    if not colon:
        source, name = "any", text
    if not _MATCHES_SOURCE(source):
        raise Invalid(
            path, f"{text[:80]!r}: before the colon must stand a source of labels, such as k8s, any, reserved"
        )
    check_qualified_name(name, path)
    if source == "reserved" and name not in RESERVED_NAMES.values():
        raise unsupported_value(path, text, tuple(_RESERVED + each for each in RESERVED_NAMES.values()))
    return f"{source}:{name}"


def _inner(selector: Selector) -> list[Requirement]:
    return [
        each._replace(key=_KUBERNETES + each.key[len(_ANY) :]) if each.key.startswith(_ANY) else each
        for each in selector.requirements
    ]
