"""Random clusters and policies as packets, against the oracle; the same generator as on the desired tables."""

import json
import os
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kilim.lab.run import run_files
from tests.pure.policy.differences import Count, compare, known_kinds, scenario

PACKETS = int(os.environ.get("KILIM_POLICY_PACKETS", "2000"))  # probes at least
SEED = int(os.environ.get("KILIM_POLICY_SEED", "1"))
FAMILIES = ("IPv4", "IPv6")  # one lab for all; of each the tables alone are asked for elsewhere
A_STEP = 80  # a step costs half a second, a probe nearly nothing


async def test_every_random_probe_gets_what_the_oracle_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents: dict[str, dict[str, Any]] = {}
    probes = 0
    while probes < PACKETS:
        document = scenario(Random(SEED * 2_000_000 + len(documents)), known_kinds(), A_STEP, FAMILIES)
        path = tmp_path / f"{len(documents):03}.json"
        path.write_text(json.dumps(document))
        documents[str(path)] = document
        probes += sum(len(step["probes"]) for step in document["steps"])
    count = Count()
    async with aclosing(run_files([Path(path) for path in documents], model=False)) as answers:  # type: ignore[type-var]
        async for answer in answers:
            compare(documents[answer["file"]], answer, count)
    with capsys.disabled():
        print(f"\n  as packets: {count}")
    assert [in_short(wrong) for wrong in count.wrong] == []
    assert count.probes >= PACKETS
    assert min(count.expected["allow"], count.expected["deny"]) > PACKETS / 5


def in_short(wrong: dict[str, Any]) -> dict[str, Any]:
    """Without the cluster: what differs, and the refusal of what should not have been refused."""
    return {"steps": len(wrong["steps"]), **wrong["steps"][-1]["probes"][0]} if "steps" in wrong else wrong
