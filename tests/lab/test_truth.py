"""A sample of the truth tables as packets, half of them in IPv6: every kind of policy, all pairs, all protocols; their
changes too."""

import json
from contextlib import aclosing
from pathlib import Path

import pytest

from kilim.lab.run import matched, run_files
from tests.policy_cases.ipv6 import in_ipv6
from tests.truth.tables import truth_tables

SAMPLE = 11  # every so many of the 262 tables: 24 of them, some 12,000 probes


async def test_a_sample_of_the_truth_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    sample = [scenario for _, scenario in list(truth_tables())[::SAMPLE]]
    for number, scenario in enumerate([*sample[::2], *map(in_ipv6, sample[1::2])]):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(scenario))
    async with aclosing(run_files(paths, model=False)) as documents:  # type: ignore[type-var]
        played = [document async for document in documents]
    wrong = [p for document in played for step in document["steps"] for p in step["probes"] if p["got"] != p["expect"]]
    assert wrong == []
    assert all(matched(document) and not step["refused"] for document in played for step in document["steps"])
    probes = sum(step["total"] for document in played for step in document["steps"])
    with capsys.disabled():
        print(f"\n  as packets: {len(played)} truth tables, {probes} probes")
    assert probes > 10_000
