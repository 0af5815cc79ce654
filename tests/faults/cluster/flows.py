"""Traffic of the shop that must not notice anything: what the demo's policies allow and deny, and who counts wrongs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

from kilim.lab.demo.traffic import Traffic, traffic_between
from kilim.lab.scenario import Probe
from kilim.lab.topology import IP_FAMILIES
from tests.faults.cluster.stage import Stage
from tests.faults.storm.probes import ip_of

LEAST = 20  # of each, so that "none was wrong" says something
ALLOWED = (
    Probe("shop/frontend", "shop/api", 8080, "TCP", "allow", {}),
    Probe("shop/api", "shop/cache", 6379, "TCP", "allow", {}),
    Probe("shop/api", "shop/db", 5432, "TCP", "allow", {}),
    Probe("shop/frontend", "shop/dns", 53, "UDP", "allow", {}),
)
DENIED = (
    Probe("shop/frontend", "shop/db", 5432, "TCP", "deny", {}),
    Probe("shop/db", "shop/api", 8080, "TCP", "deny", {}),
    Probe("monitoring/prometheus", "shop/cache", 6379, "TCP", "deny", {}),
    Probe("monitoring/prometheus", "shop/dns", 53, "UDP", "deny", {}),
)


@asynccontextmanager
async def undisturbed(stage: Stage) -> AsyncIterator[None]:
    """Over each family a long connection, new ones and denied ones, all the time; 0 lost and 0 leaked, or the test
    fails."""
    traffic = {family: _traffic(stage, family) for family in IP_FAMILIES}
    try:
        for each in traffic.values():
            await each.start()
        yield
        for each in traffic.values():
            await each.stop()
    finally:
        for each in traffic.values():
            await each.abandon()
    for (family, each), what in product(traffic.items(), ("stream", "allowed", "denied")):
        counts = getattr(each, what)
        assert counts.wrong == 0, f"{family} {what}: {counts.wrong} of {counts.done} wrong: {counts.first_wrong}"
        assert counts.done >= LEAST, f"{family} {what}: only {counts.done}"


def _traffic(stage: Stage, family: str) -> Traffic:
    places = {key: (Path(pod.netns), ip_of(pod, family)) for key, pod in stage.pods().items()}
    allowed = [traffic_between(places, probe) for probe in ALLOWED]
    denied = [traffic_between(places, probe) for probe in DENIED]
    return Traffic(allowed[0], allowed, denied)
