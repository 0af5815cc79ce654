"""The cases as scenarios."""

from typing import Any

from kilim.lab.cases import Case, load_cases, scenario_of_case
from tests.oracle.cases import FILE

Value = dict[str, Any]


def all_cases() -> list[Case]:
    return load_cases(FILE)


def scenario(case: Case, picked_only: bool = False) -> Value:
    return scenario_of_case(case, picked_only)
