"""The prober itself: it says so when what must be allowed is denied, and when what must be denied is let through."""

from typing import Any

from kilim.lab.pods import running_pods
from tests.faults.cluster.stage import Stage, until
from tests.faults.storm.probes import NAMESPACE, Probed, Prober, probe_policy, probe_wrongs

RATE, MOST, PATIENCE_S = 200.0, 240, 2.0


async def probed_under(stage: Stage, policy: dict[str, Any] | None) -> Probed:
    """What the prober sees while the servers have this policy, or none."""
    prober = Prober(running_pods(stage.lab), RATE, MOST, PATIENCE_S)
    first = stage.replicas[0]
    try:
        changed = await (first.apply(policy) if policy else first.delete("NetworkPolicy", NAMESPACE, "probes"))
        await enforced(stage, changed.seq)
        await prober.start()
        return await prober.finished()
    finally:
        await prober.abandon()
        await enforced(stage, (await first.apply(probe_policy())).seq)


async def enforced(stage: Stage, seq: int) -> None:
    async def all_do() -> bool:
        return all([(await stage.agent_status(node)).seq >= seq for node in stage.lab.agent_processes])

    await until(f"all nodes enforce {seq}", all_do)


async def test_it_sees_what_must_not_be(stage: Stage) -> None:
    probed = await probed_under(stage, None)
    leaks = probe_wrongs(probed, [], 0)
    assert sum("answered" in leak for leak in leaks) > MOST / 8, probed
    assert sum("accepted" in leak for leak in leaks) > MOST / 8, probed

    closed = probe_policy()
    closed["spec"]["ingress"] = []
    probed = await probed_under(stage, closed)
    failures = probe_wrongs(probed, [], probed.denied_syns)
    assert sum("silence" in failure for failure in failures) == probed.total(True) > MOST / 8, probed
