"""The forms of `-o`, and plain data made of protobuf messages for them."""

import json
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

F = TypeVar("F", bound=Callable[..., Any])


def output_option(*forms: str) -> Callable[[F], F]:
    return click.option("-o", "--output", type=click.Choice(forms), help="How to print.")


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_yaml(value: object) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6)).rstrip("\n")


def print_data(value: object, form: str) -> None:
    click.echo(to_yaml(value) if form == "yaml" else to_json(value))


def typed_row(columns: Sequence[str], cells: Sequence[str]) -> dict[str, int | str | None]:
    """The text of a table's row as data: numbers as numbers, `-` as null, words and addresses as they are."""
    return {
        column: None if cell == "-" else int(cell) if cell.isascii() and cell.isdecimal() else cell
        for column, cell in zip(columns, cells, strict=True)
    }


def plain(message: Message) -> dict[str, Any]:
    """All fields by their proto names: bytes in hex, 64-bit numbers as numbers, addresses as text, or null.

    In our messages `fixed32` is always an IPv4 address, a field `ipv6` of bytes an IPv6 one, and a field that ends in
    `_json` holds an object.
    """
    return dict(_field(message, field) for field in message.DESCRIPTOR.fields if _shown(message, field))


def _shown(message: Message, field: Any) -> bool:
    return not field.has_presence or message.HasField(field.name)


def _field(message: Message, field: Any) -> tuple[str, Any]:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return field.name, dict(value)
    if field.is_repeated:
        return field.name, [_value(field, item) for item in value]
    if field.name.endswith("_json"):
        return field.name.removesuffix("_json"), _object(value) if value else None
    return field.name, _value(field, value)


def _object(text: str) -> Any:
    """As text where it is no JSON: anything may stand in an event."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _value(field: Any, value: Any) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            return plain(value)
        case FieldDescriptor.TYPE_BYTES if field.name == "ipv6" and len(value) in (0, 16):
            return str(IPv6Address(value)) if value else None
        case FieldDescriptor.TYPE_BYTES:
            return value.hex()
        case FieldDescriptor.TYPE_FIXED32:
            return str(IPv4Address(value)) if value else None
        case _:
            return value
