"""discovery.k8s.io/v1 EndpointSlice as people apply it: its fields and Kubernetes' rules for them.

A visitor would get wrong: it has no `spec`. What policies know of one is in `service.py`.
"""

import re
from ipaddress import IPv4Address

from kilim.model.fields import (
    Object,
    child,
    read_any_object,
    read_boolean,
    read_integer,
    read_list,
    read_object,
    read_text,
    read_text_map,
)
from kilim.model.invalid import Invalid
from kilim.model.names import (
    check_dns_label,
    check_dns_subdomain,
    check_labels,
    check_qualified_name,
    invalid_value,
)
from kilim.model.service_checks import (
    check_serving_address,
    read_address,
    read_list_limited,
    read_protocol,
    read_word,
)

FIELDS = ("addressType", "endpoints", "ports")
_ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")
_MOST_ENDPOINTS = 1000
_MOST_ADDRESSES = 100
_MOST_PORTS = 20000
_MOST_TOPOLOGY_LABELS = 16
_MOST_HINTS = 8
_ENDPOINT_FIELDS = (
    *("addresses", "conditions", "hostname", "nodeName", "targetRef", "zone", "hints", "deprecatedTopology"),
)
_IS_WORD = re.compile("[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?").fullmatch


def check_endpoint_slice(fields: Object) -> None:
    """The object's own fields, without kind and metadata. Raises `Invalid`."""
    address_type = read_word(fields.get("addressType"), "addressType", _ADDRESS_TYPES)
    if not address_type:
        raise Invalid("addressType", "Required value")
    endpoints = read_list_limited(read_list(fields.get("endpoints"), "endpoints"), "endpoints", _MOST_ENDPOINTS)
    for number, each in enumerate(endpoints):
        _check_endpoint(each, f"endpoints[{number}]", address_type)
    names: set[str] = set()
    ports = read_list_limited(read_list(fields.get("ports"), "ports"), "ports", _MOST_PORTS)
    for number, each in enumerate(ports):
        _check_port(each, f"ports[{number}]", names)


def _check_endpoint(value: object, path: str, address_type: str) -> None:
    fields = read_object(value, path, _ENDPOINT_FIELDS)
    _check_addresses(fields.get("addresses"), child(path, "addresses"), address_type)
    conditions_path = child(path, "conditions")
    conditions = read_object(fields.get("conditions"), conditions_path, ("ready", "serving", "terminating"))
    for name, condition in conditions.items():
        read_boolean(condition, child(conditions_path, name))
    for name, check in (("hostname", check_dns_label), ("nodeName", check_dns_subdomain)):
        if name in fields:
            check(read_text(fields[name], child(path, name)), child(path, name))
    read_text(fields.get("zone"), child(path, "zone"))
    read_any_object(fields.get("targetRef"), child(path, "targetRef"))
    _check_topology(fields.get("deprecatedTopology"), child(path, "deprecatedTopology"))
    _check_hints(fields.get("hints"), child(path, "hints"))


def _check_addresses(value: object, path: str, address_type: str) -> None:
    addresses = read_list_limited(read_list(value, path), path, _MOST_ADDRESSES)
    if not addresses:
        raise Invalid(path, "Required value: must contain at least 1 address")
    for number, each in enumerate(addresses):
        _check_address(each, f"{path}[{number}]", address_type)


def _check_address(value: object, path: str, address_type: str) -> None:
    if address_type == "FQDN":
        _check_domain_name(read_text(value, path), path)
        return
    address = read_address(value, path)
    if isinstance(address, IPv4Address) != (address_type == "IPv4"):
        raise invalid_value(path, str(address), f"must be an {address_type} address")
    check_serving_address(address, path)


def _check_domain_name(name: str, path: str) -> None:
    if not name:
        raise Invalid(path, "Required value")
    words = name.removesuffix(".")
    check_dns_subdomain(words, path)
    if "." not in words:
        raise invalid_value(path, name, "should be a domain with at least two segments separated by dots")
    if not all(_IS_WORD(word) for word in words.split(".")):
        raise invalid_value(path, name, "each segment must be no more than 63 characters")


def _check_topology(value: object, path: str) -> None:
    labels = read_text_map(value, path)
    if len(labels) > _MOST_TOPOLOGY_LABELS:
        raise Invalid(path, f"Too many: {len(labels)}: must have at most {_MOST_TOPOLOGY_LABELS} items")
    check_labels(labels, path)


def _check_hints(value: object, path: str) -> None:
    fields = read_object(value, path, ("forZones", "forNodes"))
    for kind in fields:
        list_path = child(path, kind)
        seen: set[str] = set()
        for number, each in enumerate(read_list_limited(read_list(fields[kind], list_path), list_path, _MOST_HINTS)):
            name_path = f"{list_path}[{number}].name"
            name = read_text(read_object(each, f"{list_path}[{number}]", ("name",)).get("name"), name_path)
            if not name:
                raise Invalid(name_path, "Required value")
            if name in seen:
                raise Invalid(name_path, f'Duplicate value: "{name}"')
            seen.add(name)
            if kind == "forNodes":
                check_dns_subdomain(name, name_path)


def _check_port(value: object, path: str, names: set[str]) -> None:
    fields = read_object(value, path, ("name", "protocol", "port", "appProtocol"))
    name_path, port_path, protocol_path = (child(path, name) for name in ("name", "port", "appProtocol"))
    name = read_text(fields.get("name"), name_path)
    if name:
        check_dns_label(name, name_path)
    if name in names:
        raise Invalid(name_path, f'Duplicate value: "{name}"')
    names.add(name)
    read_protocol(fields.get("protocol"), child(path, "protocol"))
    if "port" in fields and not 0 <= read_integer(fields["port"], port_path) <= 65535:
        raise invalid_value(port_path, fields["port"], "must be between 0 and 65535, inclusive")
    if "appProtocol" in fields:
        check_qualified_name(read_text(fields["appProtocol"], protocol_path), protocol_path)
