"""The oracle itself, before anything is held against it: every expectation of ../shared/policy-cases."""

import json
import lzma
from collections import Counter

import pytest

from tests.oracle.cases import FILE, cluster_of_case
from tests.oracle.decision import decide


@pytest.mark.parametrize("kind", ["knp", "clusternetworkpolicy"])
def test_every_probe_of_every_case(kind: str) -> None:
    if not FILE.is_file():
        pytest.skip(f"policy-cases: {FILE} is not there")
    with lzma.open(FILE) as stream:
        cases = [case for case in json.load(stream) if case["kind"] == kind]
    wrong: Counter[str] = Counter()
    probes = 0
    for case in cases:
        cluster = cluster_of_case(case)
        wrong[case["name"]] += sum(decide(cluster, probe) != probe["expect"] for probe in case["probes"])
        probes += len(case["probes"])
    assert probes > len(cases)
    assert +wrong == Counter()
