"""Commands from all sides while replicas are hurt: what was acknowledged is in the log, once and in order."""

import asyncio
import random

import pytest

from kilim.v1 import controlplane_pb2 as api
from tests.faults.cluster.history import GHOST, GHOST_CIDR, NAMESPACE, Client, wrongs
from tests.faults.cluster.stage import PATIENCE_S, SEEDS, Replica, Stage, until

CLIENTS = 4
FAULTS = 4


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_acknowledged_command_is_in_the_log_once(stage: Stage, seed: int) -> None:
    chance = random.Random(seed)
    ghost = api.RegisterNodeRequest(name=GHOST, ip="192.168.60.250", pod_cidrs=[GHOST_CIDR])
    await stage.replicas[0].nodes.RegisterNode(ghost, timeout=PATIENCE_S)
    clients = [Client(f"run{seed}", n, stage.replicas, random.Random(f"{seed} {n}")) for n in range(CLIENTS)]
    ending = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(ending), name=f"client {client.number}")
        for _ in range(FAULTS):
            await hurt_somebody(stage, chance)
        ending.set()
    notes = [asked for client in clients for asked in client.notes]
    await stage.check_agreement()
    assert wrongs(notes, await stage.read_log()) == []
    assert sum(1 for asked in notes if asked.changed) > 10 * FAULTS, "hardly anything was done"

    await stage.replicas[0].delete("Node", "", GHOST, timeout_s=PATIENCE_S)
    for name in {asked.what.split()[1] for asked in notes if asked.what.startswith("apply")}:
        await stage.replicas[0].delete("NetworkPolicy", NAMESPACE, name, timeout_s=PATIENCE_S)


async def hurt_somebody(stage: Stage, chance: random.Random) -> None:
    """One or two replicas, or an agent beside them; back after a while, when the others have gone on."""
    victims = chance.sample(stage.replica_names, chance.choice((1, 1, 2)))
    how = chance.choice(("kill", "pause", "restart"))
    seq = max([(await r.status()).seq for r in stage.replicas if r.name not in victims])
    if how == "kill":
        stage.kill(*victims)
    elif how == "pause":
        stage.pause(*victims)
    else:
        await stage.restart(*victims)
    if chance.random() < 0.3:
        stage.kill("node1")
        await stage.restart("node1")
    well = next(replica for replica in stage.replicas if replica.name not in victims)
    await until("the others go on", lambda: beyond(well, seq + chance.randrange(10, 60)))
    if how == "kill":
        await stage.restart(*victims)
    elif how == "pause":
        stage.resume(*victims)
    for victim in (replica for replica in stage.replicas if replica.name in victims):
        await until(f"{victim.name} is back", lambda r=victim: beyond(r, seq))  # type: ignore[misc]


async def beyond(replica: Replica, seq: int) -> bool:
    return (await replica.status()).seq > seq
