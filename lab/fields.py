"""Strict reading of YAML mappings: every mistake is one line with the file, the path of the field and the rule."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kilim.lab.errors import BadInput

T = TypeVar("T")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_REQUIRED: Any = object()


class Fields:
    """One mapping of a document. Fields are taken by name; `finish` refuses what nobody took."""

    def __init__(self, value: Any, file: str, path: str) -> None:
        self._file, self._path = file, path
        if not isinstance(value, dict):
            raise self.error("", f"must be a mapping, not {_described(value)}")
        self._value: Mapping[Any, Any] = value
        self._taken: set[str] = set()

    def error(self, field: str, rule: str) -> BadInput:
        path = ".".join(part for part in (self._path, field) if part)
        return BadInput(f"{self._file}: {path or 'document'}: {rule}")

    def take(self, field: str, default: Any = _REQUIRED) -> Any:
        self._taken.add(field)
        value = self._value.get(field)
        if value is None:
            if default is _REQUIRED:
                raise self.error(field, "is required")
            return default
        return value

    def text(self, field: str, default: Any = _REQUIRED) -> str:
        value = self.take(field, default)
        if value is not default and not isinstance(value, str):
            raise self.error(field, f"must be a text, not {_described(value)}")
        return value  # type: ignore[no-any-return]

    def label_name(self, field: str, default: Any = _REQUIRED) -> str:
        return self._matching(field, _DNS_LABEL, "a DNS label (lower-case letters, digits, dashes)", default)

    def dns_name(self, field: str, default: Any = _REQUIRED) -> str:
        return self._matching(field, _DNS_NAME, "a DNS name (lower-case letters, digits, dashes, dots)", default)

    def number(self, field: str, low: int, high: int, default: Any = _REQUIRED) -> int:
        value = self.take(field, default)
        if value is default and default is not _REQUIRED:
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(field, f"must be a number from {low} to {high}, not {_described(value)}")
        return value

    def flag(self, field: str) -> bool:
        value = self.take(field, False)
        if not isinstance(value, bool):
            raise self.error(field, f"must be true or false, not {_described(value)}")
        return value

    def choice(self, field: str, choices: tuple[str, ...], default: Any = _REQUIRED) -> str:
        value = self.take(field, default)
        if value is not default and value not in choices:
            raise self.error(field, f"must be one of {', '.join(choices)}, not {_described(value)}")
        return value  # type: ignore[no-any-return]

    def ip(self, field: str, default: Any = _REQUIRED) -> str:
        return self._parsed(field, lambda text: str(ipaddress.ip_address(text)), "an IP address", default)

    def labels(self, field: str) -> dict[str, str]:
        value = self.take(field, {})
        if not isinstance(value, dict):
            raise self.error(field, f"must be a mapping of texts, not {_described(value)}")
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise self.error(f"{field}.{key}", f"must be a text, not {_described(text)} (quote it)")
        return dict(value)

    def items(self, field: str) -> list[Any]:
        value = self.take(field, [])
        if not isinstance(value, list):
            raise self.error(field, f"must be a list, not {_described(value)}")
        return value

    def texts(self, field: str, parse: Callable[[str], str], what: str) -> tuple[str, ...]:
        values = []
        for index, item in enumerate(self.items(field)):
            try:
                values.append(parse(item))
            except (ValueError, TypeError):
                raise self.error(f"{field}[{index}]", f"must be {what}, not {_described(item)}") from None
        return tuple(values)

    def mappings(self, field: str, read: "Callable[[Fields], T]") -> tuple[T, ...]:
        """A list of mappings, each read by `read` and then closed to unknown fields."""
        results = []
        for index, item in enumerate(self.items(field)):
            inner = self.inner(f"{field}[{index}]", item)
            results.append(read(inner))
            inner.finish()
        return tuple(results)

    def inner(self, path: str, value: Any) -> "Fields":
        return Fields(value, self._file, ".".join(part for part in (self._path, path) if part))

    def finish(self) -> None:
        for field in self._value:
            if field not in self._taken:
                known = ", ".join(sorted(self._taken))
                raise self.error(str(field), f"unknown field (known here: {known})")

    def _matching(self, field: str, pattern: re.Pattern[str], what: str, default: Any) -> str:
        value = self.take(field, default)
        if value is not default and not (isinstance(value, str) and pattern.fullmatch(value)):
            raise self.error(field, f"must be {what}, not {_described(value)}")
        return value  # type: ignore[no-any-return]

    def _parsed(self, field: str, parse: Callable[[str], str], what: str, default: Any) -> str:
        value = self.take(field, default)
        if value is default and default is not _REQUIRED:
            return value  # type: ignore[no-any-return]
        try:
            return parse(value)
        except (ValueError, TypeError):
            raise self.error(field, f"must be {what}, not {_described(value)}") from None


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return repr(value)
