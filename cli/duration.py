"""Times on the command line: `10s`, `1m30s`, `500ms`, or a plain number of seconds."""

import re
from typing import Any

import click

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration(text: str) -> float | None:
    """In seconds; None for what is none."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    if re.fullmatch(f"({PART.pattern})+", text, re.ASCII):
        return sum(float(amount) * UNITS_S[unit] for amount, unit in PART.findall(text))
    return None


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        seconds = parse_duration(text)
        if seconds is not None:
            return seconds
        self.fail(f'"{text}" must be a time such as 10s, 1m30s or 500ms', param, ctx)


DURATION = Duration()
