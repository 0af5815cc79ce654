"""Every disk of etcd is full: it ends, writes are refused, what is known is served and enforced; space mends it.

etcd (3.4) has its write-ahead log allocated ahead, so it goes on until its database must grow, and then ends with
"no space left on device"; it cannot start again until there is space. Nothing acknowledged is lost.
"""

import grpc
import grpc.aio

from kilim.lab import faults
from kilim.lab.pods import running_pods
from kilim.lab.process import log_tail, pid_of
from tests.faults.cluster.stage import Replica, Stage, until
from tests.faults.storm.clients import object_body
from tests.faults.storm.probes import NAMESPACE, Prober, probe_wrongs

RATE = 200.0
REFUSED_WITHIN_S = 12.0  # a replica itself says after less that it does not know
WRITES_MOST = 400
LARGE = "x" * 50_000  # so that the database must grow soon


async def test_every_disk_of_etcd_is_full(stage: Stage) -> None:
    lab, members = stage.lab, [member.name for member in stage.lab.etcd]
    prober = Prober(running_pods(lab), RATE)
    await prober.start()
    try:
        for member in members:
            assert faults.fill_disk(lab, member) > 0
        acknowledged = await write_until_refused(stage)
        await until("most of etcd has ended", lambda: ended(stage, 2))
        for replica in stage.replicas:
            await until(f"{replica.name} says that etcd is away", lambda r=replica: says_away(r))  # type: ignore[misc]
            assert acknowledged <= await replica.names("NetworkPolicy", NAMESPACE)
        for node in lab.agent_processes:
            status = await stage.agent_status(node)
            assert status.in_sync and not status.errors
        for member in members:
            faults.free_disk(lab, member)
            if pid_of(lab.name, member) is None:
                await stage.restart(member)
        await until(
            "writes work again", lambda: stage.replicas[0].apply(object_body("NetworkPolicy", NAMESPACE, "after", 1))
        )
        state = await stage.check_agreement(120.0)
        assert acknowledged <= {f"{policy.namespace}/{policy.name}" for policy in state.policies.values()}
    finally:
        probed = await prober.stop()
    assert probe_wrongs(probed, [], probed.denied_syns) == []


async def write_until_refused(stage: Stage) -> set[str]:
    """What was acknowledged before."""
    acknowledged: set[str] = set()
    for number in range(WRITES_MOST):
        name = f"large-{number}"
        body = object_body("NetworkPolicy", NAMESPACE, name, number % 5)
        body["metadata"]["annotations"] = {"ballast": LARGE}
        try:
            await stage.replicas[number % 3].apply(body, timeout_s=REFUSED_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), error
            return acknowledged
        acknowledged.add(f"{NAMESPACE}/{name}")
    raise AssertionError(f"etcd took {WRITES_MOST} large writes on full disks")


async def ended(stage: Stage, least: int) -> bool:
    lab = stage.lab
    gone = [member.name for member in lab.etcd if pid_of(lab.name, member.name) is None]
    assert len(gone) >= least, f"only {gone} of etcd ended"
    for name in gone:
        assert "no space left on device" in log_tail(lab.run_dir / "logs" / f"{name}.log", 40)
    return True


async def says_away(replica: Replica) -> bool:
    status = await replica.status()
    assert not status.ok and any("etcd" in problem for problem in status.problems), list(status.problems)
    return True
