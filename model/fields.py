"""Typed reading of a manifest's fields: what is not known, or not of the right type, is refused with its path.

A visitor would get wrong: as in Go's JSON decoding, null is the same as missing, a null item of a list of objects is
the empty object (`ingress: [null]` means `ingress: [{}]`), and a null label is the empty text. Kinds that a
CustomResourceDefinition defines have no such items and labels (`refuse_nulls`).
"""

from collections.abc import Iterable, Mapping

from kilim.model.invalid import Invalid
from kilim.model.names import invalid_value

Object = dict[str, object]

_TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


def child(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _wrong_type(value: object, path: str, expected: str) -> Invalid:
    found = _TYPE_NAMES.get(type(value), "null" if value is None else f"a {type(value).__name__}")
    return Invalid(path, f"must be {expected}, not {found}")


def read_any_object(value: object, path: str) -> Object:
    """An object whose fields are not looked at; null fields are left out, null is the empty object."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong_type(value, path, "an object")
    for key in value:
        if not isinstance(key, str):
            raise invalid_value(path, key, "a field name must be a string")
    return {key: each for key, each in value.items() if each is not None}


def read_object(value: object, path: str, known: Iterable[str]) -> Object:
    fields = read_any_object(value, path)
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        raise Invalid(child(path, unknown[0]), f'unknown field "{unknown[0]}"')
    return fields


def read_list(value: object, path: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong_type(value, path, "a list")
    return value


def read_text(value: object, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(value, path, "a string")
    return value


def read_integer(value: object, path: str) -> int:
    if type(value) is not int:
        raise _wrong_type(value, path, "an integer")
    return value


def read_text_map(value: object, path: str) -> Mapping[str, str]:
    """A null value is the empty text: were it left out, a selector would select more."""
    known = read_any_object(value, path)
    every = value if isinstance(value, dict) else known
    return {key: read_text(each, child(path, key)) for key, each in every.items()}


def refuse_nulls(value: object, path: str) -> None:
    """Null items of lists, and null values of labels, which kinds defined by a CustomResourceDefinition cannot have."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            if item is None:
                raise Invalid(f"{path}[{number}]", "must not be null")
            refuse_nulls(item, f"{path}[{number}]")
    elif isinstance(value, dict):
        for key, each in value.items():
            if each is None and path.endswith(("matchLabels", "labels")):
                raise Invalid(child(path, str(key)), "must be a string, not null")
            refuse_nulls(each, child(path, str(key)))


def read_boolean(value: object, path: str) -> bool | None:
    """None: it is not said."""
    if value is not None and not isinstance(value, bool):
        raise _wrong_type(value, path, "a boolean")
    return value
