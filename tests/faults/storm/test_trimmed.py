"""Who sleeps while the log is trimmed and compacted beyond where it was: it wakes up, takes a snapshot, and agrees.

Asleep are an agent (SIGSTOP), another agent (kill -9, with its cache on disk) and a replica (cut off, for to a stopped
one etcd's watch has sent much already); the others start again meanwhile: nobody has the missing events in memory.
"""

import re

from kilim.lab import faults
from kilim.lab.pods import running_pods
from tests.faults.cluster.stage import Replica, until
from tests.faults.storm.clients import object_body
from tests.faults.storm.probes import NAMESPACE, Prober, probe_wrongs
from tests.faults.storm.stage import StormStage

SLEEPERS = ("node1", "node2", "replica3")
RATE = 200.0
WRITES = 60
PATIENCE_S = 120.0


async def test_the_log_is_trimmed_away_from_sleepers(stage: StormStage) -> None:
    prober = Prober(running_pods(stage.lab), RATE)
    await prober.start()
    try:
        awake = [replica for replica in stage.replicas if replica.name != "replica3"]
        began = {process: begun_anew(stage, process) for process in SLEEPERS}
        asleep_at = (await stage.agent_status("node1")).seq
        stage.pause("node1")
        stage.kill("node2")
        faults.partition(stage.lab, "replica3")
        await until("the log is trimmed beyond them", lambda: trimmed(stage, awake, asleep_at), PATIENCE_S)
        await stage.restart(*(replica.name for replica in awake))
        for replica in awake:
            await until(f"{replica.name} is back", replica.status, PATIENCE_S)
        await until("replica3 knows that it is cut off", lambda: is_cut_off(stage.replicas[2]), PATIENCE_S)
        faults.heal(stage.lab, "replica3")
        stage.resume("node1")
        await stage.restart("node2")
        state = await stage.check_agreement(PATIENCE_S)
        assert state.seq > asleep_at + WRITES
        for process in SLEEPERS:
            assert begun_anew(stage, process) > began[process], f"{process} has found its way without a snapshot"
    finally:
        probed = await prober.stop()
    assert probe_wrongs(probed, [], probed.denied_syns) == []
    assert stage.archive.contradictions == [] and await stage.verify() == []


async def is_cut_off(replica: Replica) -> bool:
    return not (await replica.status()).etcd.reachable


def begun_anew(stage: StormStage, process: str) -> int:
    """How often, as its own log says."""
    said = (stage.lab.run_dir / "logs" / f"{process}.log").read_text()
    return len(re.findall(r"from_scratch\W+true|state read from a snapshot", said, re.IGNORECASE))


async def trimmed(stage: StormStage, awake: list[Replica], beyond: int) -> bool:
    """Writes on; every event is read before it can be trimmed."""
    for number in range(WRITES):
        body = object_body("NetworkPolicy", NAMESPACE, f"turn-{number % 7}", number % 5)
        await awake[number % 2].apply(body, timeout_s=PATIENCE_S)
        if number % 10 == 0:
            await stage.read_log()
    first_seq = (await awake[0].status()).log.first_seq
    assert first_seq > beyond + 1, f"the log begins at {first_seq}"
    return True
