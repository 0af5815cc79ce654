"""Clients write, followers follow, connections come and go, and a seeded schedule of faults hits everybody.

    KILIM_FAULT_SEEDS   1,2,3   one storm each                    KILIM_FAULT_ROUNDS   how many faults each has
    KILIM_FAULT_RATE    writes per second of each of the clients  KILIM_FAULT_PROBES   short connections per second

A storm that fails prints its seed and schedule and names the file of its histories.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from kilim.lab.pods import running_pods
from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.stage import SEEDS, Stage
from tests.faults.storm.checker import History, find_wrongs
from tests.faults.storm.nemesis import Nemesis
from tests.faults.storm.probes import POLICY_DROPS, Probed, Prober, probe_wrongs
from tests.faults.storm.record import save_records
from tests.faults.storm.schedule import DECK, planned
from tests.faults.storm.stage import StormStage
from tests.faults.storm.storm import Storm, prepared

ROUNDS = int(os.environ.get("KILIM_FAULT_ROUNDS", str(len(DECK))))
PROBES = float(os.environ.get("KILIM_FAULT_PROBES", "1000"))
HISTORIES = Path("build/faults")
# A storm has no end of its own but its schedule's; per fault, with all the patience that a slow machine needs.
TIMEOUT_S = 300 + 30 * ROUNDS


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_storm_breaks_no_promise(stage: StormStage, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    plan, storm, prober = planned(seed, ROUNDS), prepared(stage, seed), Prober(running_pods(stage.lab), PROBES)
    nemesis = Nemesis(stage, prober)
    file = HISTORIES / f"storm-{seed}.jsonl"
    drops_before = await policy_drops(stage)
    try:
        await prober.start()
        await storm.rage(plan, nemesis)
        probed = await prober.stop()
        drops = await policy_drops(stage) - drops_before
        history, wrongs = storm.history(), storm.wrong_at_rest() + await stage.verify()
        wrongs += find_wrongs(history) + probe_wrongs(probed, nemesis.injected, drops)
        with capsys.disabled():
            said = told(storm, history, probed, nemesis, await stage.replicas[0].status())
            print("", said, f"policy dropped {drops} packets, {probed.denied_syns} were denied", sep="\n  ")
        assert not wrongs, f"{len(wrongs)} promises broken: " + "\n".join(wrongs[:20])
        assert history.operations and probed.total(True) and probed.total(False)
    except BaseException:
        print(f"seed {seed}, KILIM_FAULT_ROUNDS={ROUNDS}, histories in {file.resolve()}; the schedule:")
        print("\n".join(f"  {fault}" for fault in plan))
        print("what was done:", *nemesis.injected, sep="\n  ")
        raise
    finally:
        await prober.abandon()
        save_records(file, [*storm.history().records(), *nemesis.injected])


def told(storm: Storm, history: History, probed: Probed, nemesis: Nemesis, status: api.StatusResponse) -> str:
    outcomes = Counter(operation.outcome for operation in history.operations)
    snapshots = [each.seq for each in status.log.snapshots]
    sizes = f"{len(history.sightings)} sightings, {len(history.samples)} samples, {len(history.readings)} lists"
    lines = [
        f"storm {storm.seed}: {len(nemesis.injected)} faults, {history.log[-1].last_seq} events",
        f"all agreed {storm.converged_s:.1f} s after the last fault",
        f"log held from {status.log.first_seq}, snapshots at {snapshots} {status.log.error}",
        f"operations: {dict(outcomes)}; {len(storm.pods.notes)} pods, {storm.pods.runtime.refused} CNI calls repeated",
        f"{sizes}; followers began anew: {sum(notes.session for notes in storm.followers)} times",
        f"probes: {probed}",
        *(f"{each.fault} {', '.join(each.victims)}: {each.note}" for each in nemesis.injected if each.note),
    ]
    return "\n  ".join(lines)


async def policy_drops(stage: Stage) -> int:
    """Packets that the datapath of all nodes has dropped by policy; the counters outlive the agents."""
    counts = [count for node in stage.lab.agent_processes for count in (await stage.agent_status(node)).counts]
    return sum(count.packets for count in counts if count.reason in POLICY_DROPS)
