"""`apply --wait` on 3 nodes: from the call to the last agent's acknowledgement, after its maps are written.

Beside each change the same etcd commits a bare transaction of the same size, so that its share of the time is known.
The time of the command's own process (starting Python) is not in it: the calls are those that it makes.
"""

import asyncio
import json
import time

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.transaction import put
from kilim.lab.client import ControlPlane
from kilim.lab.commands import replica_targets
from kilim.lab.topology import Lab
from tests.bench.measure import Result, percentile, publish, single
from tests.bench.pods import add_bench_pods, port_policy
from tests.bench.stage import stage

CHANGES = 500
_WARM_UP = 20


async def _changes(lab: Lab) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds: apply answered, enforced everywhere, bare transaction; per change."""
    applied, enforced, bare = [], [], []
    etcd = EtcdClient([lab.etcd[0].loopback])
    async with ControlPlane(replica_targets(lab)) as plane:
        for number in range(_WARM_UP + CHANGES):
            body = port_policy(1024 + number)
            before = time.perf_counter()
            seq = await plane.apply([("bench", body)])
            answered = time.perf_counter()
            await plane.wait(seq)
            done = time.perf_counter()
            value = json.dumps(body).encode()
            committing = time.perf_counter()
            await etcd.transaction([], [put("/bench/log", value), put("/bench/head", value[:100])])
            committed = time.perf_counter()
            if number >= _WARM_UP:
                applied.append((answered - before) * 1e3)
                enforced.append((done - before) * 1e3)
                bare.append((committed - committing) * 1e3)
    await etcd.close()
    return applied, enforced, bare


def _result(metric: str, values: list[float], p: float, bare: list[float]) -> Result:
    mine, theirs = percentile(values, p), percentile(bare, p)
    return Result(
        metric,
        round(mine, 3),
        "ms",
        "bare etcd transaction",
        round(theirs, 3),
        round(mine / theirs, 3),
        None,
        len(values),
    )


async def _run() -> None:
    async with stage(nodes=3) as lab:
        await add_bench_pods(lab)
        applied, enforced, bare = await _changes(lab)
    beyond = [mine - theirs for mine, theirs in zip(enforced, bare, strict=True)]
    publish(
        "wait",
        [
            _result("apply_p50_ms", applied, 0.5, bare),
            _result("apply_p99_ms", applied, 0.99, bare),
            _result("apply_wait_p50_ms", enforced, 0.5, bare),
            _result("apply_wait_p99_ms", enforced, 0.99, bare),
            single("etcd_share_p50", "of 1", [theirs / mine for mine, theirs in zip(enforced, bare, strict=True)]),
            single("beyond_etcd_commit_p50_ms", "ms", beyond),
            single("beyond_etcd_commit_p99_ms", "ms", [percentile(beyond, 0.99)]),
        ],
    )


def run() -> None:
    asyncio.run(_run())
