"""What cilium.io rules say above ports: HTTP, DNS, Kafka, TLS, listeners, DNS names. Checked, not yet enforced.

A visitor would get wrong: what is broken raises `Invalid` at once, what is right is put into `refused`, so that a
manifest is told of its mistakes first. Nothing of it is ever let through unseen.
"""

import re
from collections.abc import Sequence

from kilim.model.fields import Object, child, read_integer, read_list, read_object, read_text, read_text_map
from kilim.model.invalid import Invalid
from kilim.model.names import invalid_value, unsupported_value
from kilim.model.rules import Port, PortRange

NOT_YET = "not yet enforced"
_RULES = ("http", "kafka", "dns", "l7proto", "l7")
_TLS = ("terminatingTLS", "originatingTLS")
LAYER7_FIELDS = ("rules", "serverNames", *_TLS, "listener")
_LONGEST_NAME = 255
_MATCHES_DNS_NAME = re.compile(r"[-a-zA-Z0-9_.]+").fullmatch
_MATCHES_DNS_PATTERN = re.compile(r"[-a-zA-Z0-9_*.]+").fullmatch
_MISMATCHES = ("LOG", "ADD", "DELETE", "REPLACE")
_KAFKA_ROLES = ("produce", "consume")

PortsOfProtocol = tuple[str, list[Port]]


def parse_layer7(
    fields: Object, path: str, section: str, ports: Sequence[PortsOfProtocol], refused: list[Invalid]
) -> None:
    """All of an entry of toPorts but its ports. Raises `Invalid`."""
    rules_path, names_path, listener_path = (child(path, each) for each in ("rules", "serverNames", "listener"))
    present = _parse_rules(fields.get("rules"), rules_path, section, ports)
    names = read_list(fields.get("serverNames"), names_path)
    for number, name in enumerate(names):
        if not read_text(name, f"{names_path}[{number}]"):
            raise Invalid(f"{names_path}[{number}]", "Required value: must be the name of a server")
    if names and present and "terminatingTLS" not in fields:
        raise Invalid(names_path, "Forbidden: may not be combined with `rules` without `terminatingTLS`")
    for each in _TLS:
        if each in fields:
            _check_tls(fields[each], child(path, each))
    if "listener" in fields:
        if section == "ingress":
            raise Invalid(listener_path, "Forbidden: not allowed on ingress")
        _check_listener(fields["listener"], listener_path)
        if present:
            raise Invalid(listener_path, "Forbidden: may not be combined with `rules`")
    refused += [Invalid(child(rules_path, each), NOT_YET) for each in present]
    refused += [Invalid(names_path, NOT_YET)] if names else []
    refused += [Invalid(child(path, each), NOT_YET) for each in (*_TLS, "listener") if each in fields]


def _parse_rules(value: object, path: str, section: str, ports: Sequence[PortsOfProtocol]) -> list[str]:
    """Which kinds of rules there are."""
    fields = read_object(value, path, _RULES)
    checks = {"http": _check_http, "kafka": _check_kafka, "dns": check_dns_name, "l7": _check_pairs}
    for name, check in checks.items():
        for number, rule in enumerate(read_list(fields.get(name), child(path, name))):
            check(rule, f"{child(path, name)}[{number}]")
    if "l7" in fields and not read_text(fields.get("l7proto"), child(path, "l7proto")):
        raise Invalid(child(path, "l7"), "Forbidden: may not be specified without `l7proto`")
    present = [each for each in _RULES if each in fields and each != "l7"]
    if len(present) > 1:
        raise Invalid(path, f"Forbidden: may not combine {present[0]} and {present[1]}")
    for name in present:
        _check_ports(name, child(path, name), section, ports)
    return present


def _check_ports(name: str, path: str, section: str, ports: Sequence[PortsOfProtocol]) -> None:
    if any(isinstance(port, PortRange) and port.first == 0 for _, each in ports for port in each):
        raise Invalid(path, "Forbidden: may not be combined with port 0")
    if name == "dns":
        if section == "ingress":
            raise Invalid(path, "Forbidden: not allowed on ingress")
        if not ports:
            raise Invalid(path, "Forbidden: needs a port, 53 as a rule")
        if any(isinstance(port, PortRange) and port.last > port.first for _, each in ports for port in each):
            raise Invalid(path, "Forbidden: may not be combined with a range of ports")
        return
    other = next((protocol for protocol, _ in ports if protocol != "TCP"), None)
    if other is not None:
        raise Invalid(path, f"Forbidden: may only be combined with ports of protocol TCP, not {other}")


def _check_http(value: object, path: str) -> None:
    fields = read_object(value, path, ("path", "method", "host", "headers", "headerMatches"))
    for name in ("path", "method", "host"):
        text = read_text(fields.get(name), child(path, name))
        try:
            re.compile(text)
        except (re.error, RecursionError, OverflowError):
            raise invalid_value(child(path, name), text, "must be a regular expression") from None
    headers = child(path, "headers")
    for number, header in enumerate(read_list(fields.get("headers"), headers)):
        if not read_text(header, f"{headers}[{number}]"):
            raise Invalid(f"{headers}[{number}]", "Required value: must be a header, such as `X-My-Header: true`")
    matches = child(path, "headerMatches")
    for number, match in enumerate(read_list(fields.get("headerMatches"), matches)):
        _check_header_match(match, f"{matches}[{number}]")


def _check_header_match(value: object, path: str) -> None:
    fields = read_object(value, path, ("mismatch", "name", "secret", "value"))
    if not read_text(fields.get("name"), child(path, "name")):
        raise Invalid(child(path, "name"), "Required value")
    mismatch = read_text(fields.get("mismatch"), child(path, "mismatch"))
    if mismatch and mismatch not in _MISMATCHES:
        raise unsupported_value(child(path, "mismatch"), mismatch, _MISMATCHES)
    read_text(fields.get("value"), child(path, "value"))
    if "secret" in fields:
        _check_named(fields["secret"], child(path, "secret"))


def _check_kafka(value: object, path: str) -> None:
    fields = read_object(value, path, ("role", "apiKey", "apiVersion", "clientID", "topic"))
    texts = {name: read_text(fields.get(name), child(path, name)) for name in fields}
    if texts.get("role") and texts.get("apiKey"):
        raise Invalid(path, "Forbidden: may not combine `role` and `apiKey`")
    if texts.get("role") and texts["role"] not in _KAFKA_ROLES:
        raise unsupported_value(child(path, "role"), texts["role"], _KAFKA_ROLES)


def _check_pairs(value: object, path: str) -> None:
    read_text_map(value, path)


def check_dns_name(value: object, path: str) -> None:
    """matchName or matchPattern, one of them. Raises `Invalid`."""
    fields = read_object(value, path, ("matchName", "matchPattern"))
    texts = {name: read_text(fields.get(name), child(path, name)) for name in ("matchName", "matchPattern")}
    if bool(texts["matchName"]) == bool(texts["matchPattern"]):
        raise Invalid(path, "must have one of `matchName` and `matchPattern`")
    for name, matches in (("matchName", _MATCHES_DNS_NAME), ("matchPattern", _MATCHES_DNS_PATTERN)):
        text = texts[name]
        if len(text) > _LONGEST_NAME:
            raise invalid_value(child(path, name), text, f"must be no more than {_LONGEST_NAME} characters")
        if text and (not matches(text) or ".." in text or text.startswith(".")):
            allowed = "letters, digits, '-', '_' and '.'" + (" and '*'" if name == "matchPattern" else "")
            raise invalid_value(child(path, name), text, f"must be a DNS name of {allowed}")


def _check_tls(value: object, path: str) -> None:
    fields = read_object(value, path, ("secret", "trustedCA", "certificate", "privateKey"))
    if "secret" not in fields:
        raise Invalid(child(path, "secret"), "Required value")
    _check_named(fields["secret"], child(path, "secret"))
    for name in ("trustedCA", "certificate", "privateKey"):
        read_text(fields.get(name), child(path, name))


def _check_named(value: object, path: str) -> None:
    fields = read_object(value, path, ("namespace", "name"))
    read_text(fields.get("namespace"), child(path, "namespace"))
    if not read_text(fields.get("name"), child(path, "name")):
        raise Invalid(child(path, "name"), "Required value")


def _check_listener(value: object, path: str) -> None:
    fields = read_object(value, path, ("envoyConfig", "name", "priority"))
    if not read_text(fields.get("name"), child(path, "name")):
        raise Invalid(child(path, "name"), "Required value")
    config_path = child(path, "envoyConfig")
    config = read_object(fields.get("envoyConfig"), config_path, ("kind", "name"))
    kinds = ("CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig")
    kind = read_text(config.get("kind"), child(config_path, "kind"))
    if kind and kind not in kinds:
        raise unsupported_value(child(config_path, "kind"), kind, kinds)
    if not read_text(config.get("name"), child(config_path, "name")):
        raise Invalid(child(config_path, "name"), "Required value")
    if "priority" in fields:
        priority = read_integer(fields["priority"], child(path, "priority"))
        if not 1 <= priority <= 100:
            raise invalid_value(child(path, "priority"), priority, "must be between 1 and 100, inclusive")
