"""One change of a policy beside what the same etcd needs for a bare transaction of the same size."""

import json
import time
from collections.abc import Sequence
from typing import Any

from kilim.kvstore.client import EtcdClient
from kilim.kvstore.transaction import put
from kilim.lab.client import ControlPlane
from tests.bench.measure import Result, percentile

RIVAL = "bare etcd transaction"


async def apply_beside_bare(plane: ControlPlane, etcd: EtcdClient, body: dict[str, Any]) -> tuple[float, float, float]:
    """Milliseconds until answered, until enforced everywhere, and of the bare transaction."""
    began = time.perf_counter()
    seq = await plane.apply([("bench", body)])
    answered = time.perf_counter()
    await plane.wait(seq)
    enforced = time.perf_counter()
    value = json.dumps(body).encode()
    committing = time.perf_counter()
    await etcd.transaction([], [put("/bench/log", value), put("/bench/head", value[:100])])
    committed = time.perf_counter()
    return (answered - began) * 1e3, (enforced - began) * 1e3, (committed - committing) * 1e3


def against_bare(metric: str, values: Sequence[float], bare: Sequence[float], p: float) -> Result:
    """The percentile of both, as `metric_p50_ms` says for p 0.5."""
    mine, theirs = percentile(values, p), percentile(bare, p)
    name, ratio = f"{metric}_p{p * 100:g}_ms", round(mine / theirs, 3)
    return Result(name, round(mine, 3), "ms", RIVAL, round(theirs, 3), ratio, None, len(values))
