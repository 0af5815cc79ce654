"""Plays everything and counts; the status is 1 where anything differs from what it should be."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from kilim.lab.run import matched, run_files
from tests.policy_cases.ipv6 import in_ipv6
from tests.policy_cases.scenarios import all_cases, scenario
from tests.truth.tables import truth_tables

Value = dict[str, Any]
SHOWN = 5  # wrong probes of a step that are printed
PARTS = ("cases", "cases-ipv6", "picked", "picked-ipv6", "truth", "truth-ipv6", "truth-packets", "truth-packets-ipv6")


def written(folder: Path, scenarios: Iterable[tuple[str, Value]]) -> dict[str, str]:
    """The name of each by its path. Files of the same cluster stand side by side: a cluster is kept between them."""
    names = {}
    for number, (name, document) in enumerate(sorted(scenarios, key=lambda each: json.dumps(each[1]["nodes"]))):
        path = folder / f"{number:03}.json"
        path.write_text(json.dumps(document))
        names[str(path)] = name
    return names


async def play(title: str, scenarios: Iterable[tuple[str, Value]], model: bool) -> bool:
    """Whether all is right; prints the count and what is not."""
    total = right = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        names = written(Path(folder), scenarios)
        async with aclosing(run_files([Path(path) for path in names], model)) as documents:  # type: ignore[type-var]
            async for document in documents:
                total += sum(step["total"] for step in document["steps"])
                right += sum(step["matched"] for step in document["steps"])
                refused += sum(bool(step["refused"]) for step in document["steps"])
                if not matched(document) or any(step["refused"] for step in document["steps"]):
                    print_wrong(names[document["file"]], document)
    print(
        f"{title}: {right} of {total} probes right in {len(names)} scenarios, {refused} steps with refusals", flush=True
    )
    return right == total and not refused


def print_wrong(name: str, document: Value) -> None:
    for number, step in enumerate(document["steps"]):
        for why in step["refused"].values():
            print(f"  {name}: step {number}: refused: {why}")
        wrong = [probe for probe in step["probes"] if probe["got"] != probe["expect"]]
        for probe in wrong[:SHOWN]:
            print(f"  {name}: step {number}: {json.dumps(probe)}")
        if len(wrong) > SHOWN:
            print(f"  {name}: step {number}: and {len(wrong) - SHOWN} more")


async def main(parts: Iterable[str]) -> int:
    right = True
    for part in parts:
        match part:
            case "cases":
                cases = ((case["name"], scenario(case)) for case in all_cases())
                right &= await play("policy cases by tables", cases, model=True)
            case "cases-ipv6":
                cases = ((case["name"], in_ipv6(scenario(case))) for case in all_cases())
                right &= await play("policy cases in IPv6 by tables", cases, model=True)
            case "picked-ipv6":
                picked = ((case["name"], in_ipv6(scenario(case, picked_only=True))) for case in all_cases())
                right &= await play("picked probes in IPv6 as packets", picked, model=False)
            case "truth-ipv6":
                tables = ((name, in_ipv6(document)) for name, document in truth_tables())
                right &= await play("truth tables in IPv6 by tables", tables, model=True)
            case "picked":
                picked = ((case["name"], scenario(case, picked_only=True)) for case in all_cases())
                right &= await play("picked probes as packets", picked, model=False)
            case "truth":
                right &= await play("truth tables by tables", truth_tables(), model=True)
            case "truth-packets":
                right &= await play("truth tables as packets", truth_tables(), model=False)
            case "truth-packets-ipv6":
                tables = ((name, in_ipv6(document)) for name, document in truth_tables())
                right &= await play("truth tables in IPv6 as packets", tables, model=False)
            case other:
                print(f"{other}: must be one of {', '.join(PARTS)}", file=sys.stderr)
                return 2
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:] or PARTS)))
