"""The desired tables against the oracle: random clusters, policies of all kinds that the product knows, and probes."""

import os
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pure.policy.differences import Count, known_kinds, play, scenario

# probes that CI runs; KILIM_POLICY_PROBES asks for more, KILIM_POLICY_SEED for others
PROBES = int(os.environ.get("KILIM_POLICY_PROBES", "20000"))
SEED = int(os.environ.get("KILIM_POLICY_SEED", "1"))


async def test_every_random_probe_gets_what_the_oracle_says(capsys: pytest.CaptureFixture[str]) -> None:
    count = Count()
    while count.probes < PROBES:
        await play(scenario(Random(SEED * 1_000_000 + count.scenarios), known_kinds()), count)
        assert count.wrong == []
    with capsys.disabled():
        print(f"\n{count}")
    assert min(count.expected["allow"], count.expected["deny"]) > PROBES / 5


async def test_services_and_api_servers(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else, so that references meet what they refer to."""
    count = Count()
    kinds = ("policy of services", "Service", "EndpointSlice")
    while count.probes < PROBES / 5:
        await play(scenario(Random(SEED * 1_000_000 + count.scenarios), kinds), count)
        assert count.wrong == []
    with capsys.disabled():
        print(f"\n{count}")
    assert min(count.expected["allow"], count.expected["deny"]) > PROBES / 40


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
async def test_what_hypothesis_thinks_of(random: Random) -> None:
    count = Count()
    await play(scenario(random, known_kinds()), count)
    assert count.wrong == []
