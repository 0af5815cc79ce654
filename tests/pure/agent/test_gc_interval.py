"""How often connections are collected."""

from kilim.agent.core.gc_interval import LEAST_S, MOST_S, next_interval_s


def test_the_more_had_expired_the_sooner() -> None:
    assert next_interval_s(300, alive=500, deleted=500) == 150
    assert next_interval_s(300, alive=900, deleted=100) == 300
    assert next_interval_s(300, alive=1000, deleted=10) == 450
    assert next_interval_s(300, alive=0, deleted=0) == 450


def test_within_its_limits() -> None:
    assert next_interval_s(12, alive=1, deleted=999) == LEAST_S
    assert next_interval_s(MOST_S, alive=1, deleted=0) == MOST_S
    assert next_interval_s(300, alive=1, deleted=0, most_s=60) == 60
