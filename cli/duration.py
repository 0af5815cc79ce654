"""Times on the command line: `10s`, `1m30s`, `500ms`, or a plain number of seconds."""

import re
from typing import Any

import click

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        if re.fullmatch(f"({PART.pattern})+", text):
            return sum(float(amount) * UNITS_S[unit] for amount, unit in PART.findall(text))
        self.fail(f'"{text}" must be a time such as 10s, 1m30s or 500ms', param, ctx)


DURATION = Duration()
