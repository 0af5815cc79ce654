"""Kubernetes' syntax rules for names, labels and ports, with the words in which its API server states them.

Every `check_` raises `Invalid`; nothing is repaired. A visitor would get wrong: a label value may be empty, a key not.
"""

import json
import re
from collections.abc import Mapping

from kilim.model.invalid import Invalid

_WORD = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_MATCHES_WORD = re.compile(_WORD).fullmatch
_MATCHES_LABEL = re.compile(_LABEL).fullmatch
_MATCHES_SUBDOMAIN = re.compile(_SUBDOMAIN).fullmatch

_WORD_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_WORD}')"
)
_LABEL_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    f"'({_WORD})?')"
)
_DNS_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_DNS_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)


def invalid_value(path: str, value: object, rule: str) -> Invalid:
    """As the API server prints it: `path: Invalid value: "x": rule`; long values are shortened."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    if len(shown) > 120:
        shown = shown[:117] + "..."
    return Invalid(path, f"Invalid value: {shown}: {rule}")


def unsupported_value(path: str, value: object, supported: tuple[str, ...]) -> Invalid:
    listed = ", ".join(f'"{each}"' for each in sorted(supported))
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return Invalid(path, f"Unsupported value: {shown[:120]}: supported values: {listed}")


def _first(*broken: str | None) -> str | None:
    return next((rule for rule in broken if rule is not None), None)


def _longer(text: str, limit: int) -> str | None:
    return f"must be no more than {limit} characters" if len(text) > limit else None


def _dns_subdomain_rule(text: str) -> str | None:
    return _first(_longer(text, 253), None if _MATCHES_SUBDOMAIN(text) else _DNS_SUBDOMAIN_RULE)


def _qualified_name_rule(text: str) -> str | None:
    prefix, slash, name = text.rpartition("/")
    if "/" in prefix:
        return (
            f"a qualified name {_WORD_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )
    if slash:
        rule = "must be non-empty" if not prefix else _dns_subdomain_rule(prefix)
        if rule is not None:
            return f"prefix part {rule}"
    rule = "must be non-empty" if not name else _first(_longer(name, 63), None if _MATCHES_WORD(name) else _WORD_RULE)
    return None if rule is None else f"name part {rule}"


def _port_name_rule(text: str) -> str | None:
    return _first(
        "must be no more than 15 characters" if len(text) > 15 else None,
        None
        if re.fullmatch("[-a-z0-9]+", text)
        else "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        None if re.search("[a-z]", text) else "must contain at least one letter (a-z)",
        "must not contain consecutive hyphens" if "--" in text else None,
        "must not begin or end with a hyphen" if text[:1] == "-" or text[-1:] == "-" else None,
    )


def _check(path: str, value: object, rule: str | None) -> None:
    if rule is not None:
        raise invalid_value(path, value, rule)


def check_dns_label(text: str, path: str) -> None:
    _check(path, text, _first(_longer(text, 63), None if _MATCHES_LABEL(text) else _DNS_LABEL_RULE))


def check_dns_subdomain(text: str, path: str) -> None:
    _check(path, text, _dns_subdomain_rule(text))


def check_qualified_name(text: str, path: str) -> None:
    _check(path, text, _qualified_name_rule(text))


def check_label_value(text: str, path: str) -> None:
    rule = None if not text or _MATCHES_WORD(text) else _LABEL_VALUE_RULE
    _check(path, text, _first(_longer(text, 63), rule))


def check_labels(labels: Mapping[str, str], path: str) -> None:
    for key in sorted(labels):
        check_qualified_name(key, path)
        check_label_value(labels[key], path)


def check_port_name(text: str, path: str) -> None:
    _check(path, text, _port_name_rule(text))


def check_port_number(number: int, path: str) -> None:
    _check(path, number, None if 1 <= number <= 65535 else "must be between 1 and 65535, inclusive")
