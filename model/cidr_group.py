"""CiliumCIDRGroup: prefixes with a name and labels, which policies select by either.

A visitor would get wrong: a group has no rows of its own. The identities of the prefixes inside it say in a label which
groups they are in and with which labels (`label_of_group`), and `GroupPeer` of a policy selects by that: so a change of
a group is a change of identities, and no policy needs to be looked at again.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from kilim.model.address import Cidr, host_length, parse_cidr, parse_ip
from kilim.model.fields import child, read_list, read_object, read_text, read_text_map
from kilim.model.invalid import Invalid
from kilim.model.labels import LabelPairs, sorted_pairs
from kilim.model.names import invalid_value
from kilim.model.nouns import Policy

CIDR_GROUP = "CiliumCIDRGroup"
GROUP_LABEL = "cidrgroup:"
GROUP_NAME = ""  # key of the name among a group's labels; no label has an empty key


class CidrGroup(NamedTuple):
    labels: LabelPairs
    prefixes: tuple[Cidr, ...]


def parse_cidr_group_spec(value: object, path: str = "spec") -> tuple[Cidr, ...]:
    """Its prefixes, sorted. Raises `Invalid`."""
    fields = read_object(value, path, ("externalCIDRs",))
    list_path = child(path, "externalCIDRs")
    if "externalCIDRs" not in fields:
        raise Invalid(list_path, "Required value")
    found = set()
    for number, item in enumerate(read_list(fields["externalCIDRs"], list_path)):
        found.add(read_prefix(item, f"{list_path}[{number}]"))
    return tuple(sorted(found))


@lru_cache(maxsize=256)
def group_of(policy: Policy) -> CidrGroup:
    """Of an object of this kind. Total (I1): what cannot be read has no prefixes. A memo of a pure function."""
    try:
        manifest = json.loads(policy.manifest_json)
        labels = read_text_map(manifest["metadata"].get("labels"), "metadata.labels")
        return CidrGroup(sorted_pairs(labels), parse_cidr_group_spec(manifest.get("spec")))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return CidrGroup((), ())


def label_of_group(name: str, labels: LabelPairs) -> str:
    """Of an identity whose prefix is in the group."""
    return f"{GROUP_LABEL}{name}=" + ",".join(f"{key}={value}" for key, value in labels)


def groups_in(labels: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The labels of every group that an identity is in, with its name."""
    for key, text in labels.items():
        if key.startswith(GROUP_LABEL):
            pairs = (pair.partition("=") for pair in text.split(",") if pair)
            yield {name: value for name, _, value in pairs} | {GROUP_NAME: key[len(GROUP_LABEL) :]}


def read_prefix(value: object, path: str, bare: bool = False) -> Cidr:
    """A prefix as cilium.io writes it, host bits cleared; `bare`: an address by itself too."""
    text = read_text(value, path)
    if not text:
        raise Invalid(path, "Required value")
    _, slash, length = text.partition("/")
    try:
        if (slash and length != str(int(length))) or not (slash or bare):
            raise ValueError
        if slash:
            return parse_cidr(text)
        ip = parse_ip(text)
        return Cidr(ip, host_length(ip))
    except ValueError:
        rule = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        raise invalid_value(path, text, rule) from None
