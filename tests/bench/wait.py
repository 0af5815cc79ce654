"""`apply --wait` on 3 nodes: from the call to the last agent's acknowledgement, after its maps are written.

Beside each change the same etcd commits a bare transaction of the same size, so that its share of the time is known.
The time of the command's own process (starting Python) is not in it: the calls are those that it makes.
"""

import asyncio

from kilim.kvstore.client import EtcdClient
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.topology import Lab
from tests.bench.change import against_bare, apply_beside_bare
from tests.bench.measure import percentile, publish, single
from tests.bench.pods import add_bench_pods, port_policy
from tests.bench.stage import stage

CHANGES = 500
_WARM_UP = 20


async def _changes(lab: Lab) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds: apply answered, enforced everywhere, bare transaction; per change."""
    applied: list[float] = []
    enforced: list[float] = []
    bare: list[float] = []
    etcd = EtcdClient([lab.etcd[0].loopback])
    async with ControlPlane(replica_targets(lab)) as plane:
        for number in range(_WARM_UP + CHANGES):
            times = await apply_beside_bare(plane, etcd, port_policy(1024 + number))
            if number >= _WARM_UP:
                for values, value in zip((applied, enforced, bare), times, strict=True):
                    values.append(value)
    await etcd.close()
    return applied, enforced, bare


async def _run() -> None:
    async with stage(nodes=3) as lab:
        await add_bench_pods(lab)
        applied, enforced, bare = await _changes(lab)
    beyond = [mine - theirs for mine, theirs in zip(enforced, bare, strict=True)]
    publish(
        "wait",
        [
            against_bare("apply", applied, bare, 0.5),
            against_bare("apply", applied, bare, 0.99),
            against_bare("apply_wait", enforced, bare, 0.5),
            against_bare("apply_wait", enforced, bare, 0.99),
            single("etcd_share_p50", "of 1", [theirs / mine for mine, theirs in zip(enforced, bare, strict=True)]),
            single("beyond_etcd_commit_p50_ms", "ms", beyond),
            single("beyond_etcd_commit_p99_ms", "ms", [percentile(beyond, 0.99)]),
        ],
    )


def run() -> None:
    asyncio.run(_run())
