"""What each program costs a packet, in ns, by BPF_PROG_TEST_RUN: beside the floor (redirect.bpf.c) in the same rounds,
and beside what is recorded in recorded/test_run.json, so that a regression shows. KILIM_BENCH_RECORD=1 records anew.

A redirected packet is not sent: only the program itself is measured. Nobody is woken to read records, for nobody reads
while a program runs 10,000 times, and it would be each time. What can be compared with what another machine recorded is
how many times the floor a program takes, so that is what `…_of_recorded` is.
"""

import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Datapath, Settings, load_objects, remove_all
from kilim.model.tables import ALLOW, PolicyKey
from tests.bench.bpfobject import load_redirect
from tests.bench.measure import Result, compared, publish
from tests.bench.netload import BenchError, bench_cpu
from tests.datapath.kernel import Shim, compile_shim
from tests.kernel.frames import ACK, FAMILY, NODE, OTHER_NODE, REMOTE, SYN, TCP, A, B, End, ipv6_like, tcp
from tests.kernel.rig import EGRESS, INGRESS, LO, REDIRECT, Rig, row

ROUNDS = 31
_RECORDED = Path(__file__).with_name("recorded") / "test_run.json"
_ROOT = Path(f"/sys/fs/bpf/kilim-bench{os.getpid()}")
_REPEAT = 10_000  # the ring holds a record of each
_RING = 4 << 20
_PORT, _CLIENT_PORT = 80, 40_000
_FLOOR = "redirect_only"

Sample = Callable[[], float]


class _Bench:
    """`keeping` follows connections; in `forgetting` each lives for no time, so that each packet opens one."""

    def __init__(self, keeping: Datapath, forgetting: Datapath, shim: Path) -> None:
        self._keeping, self._forgetting = Rig(keeping), Rig(forgetting)
        self._in_tunnel = Shim(shim, keeping.program_fd("overlay"))
        self._tunnel_alone = Shim(shim, None)
        self._floor_fd = load_redirect("to_pod", LO)
        for rig in (self._keeping, self._forgetting):
            _enforce(rig)
        for shimmed in (self._in_tunnel, self._tunnel_alone):
            shimmed.set_origin(OTHER_NODE.ip, REMOTE.identity)

    def cases(self) -> dict[str, Sample]:
        return {
            _FLOOR: lambda: _ns(self._floor_fd, tcp(A, B, ACK)),
            "same_node_established": self._established(A, B, "from_endpoint"),
            "same_node_new": self._opening(_PORT),
            "same_node_denied": self._opening(_PORT + 1),
            "overlay_out_established": self._established(A, REMOTE, "from_endpoint"),
            "overlay_in_established": self._overlay_in(),
            "from_host_established": self._established(NODE, A, "to_endpoint"),
        }

    def close(self) -> None:
        self._in_tunnel.close()
        self._tunnel_alone.close()
        os.close(self._floor_fd)

    def _established(self, source: End, destination: End, program: str) -> Sample:
        """Opened, and answered where the other end is here, before it is measured."""
        rig = self._keeping
        rig.send(program, rig.repeatable(A, B, tcp(source, destination, SYN)))
        if destination is B:
            rig.out(tcp(B, A, SYN | ACK, _PORT, _CLIENT_PORT))
        return _sample(rig, program, tcp(source, destination, ACK))

    def _opening(self, port: int) -> Sample:
        return _sample(self._forgetting, "from_endpoint", tcp(A, B, SYN, dport=port), passes=port == _PORT)

    def _overlay_in(self) -> Sample:
        """Less what it takes to make a packet look as if it came out of a tunnel."""
        frame = tcp(REMOTE, B, ACK)
        syscall.run_program(self._in_tunnel.fd, tcp(REMOTE, B, SYN))
        if syscall.run_program(self._in_tunnel.fd, frame).retval != REDIRECT:
            raise BenchError("overlay: the packet to be measured was dropped")
        return lambda: _ns(self._in_tunnel.fd, frame) - _ns(self._tunnel_alone.fd, frame)


def _enforce(rig: Rig) -> None:
    """Both ends, each with a row for everybody it is to speak with."""
    rig.set_policy(A, {_row(EGRESS, B): ALLOW, _row(EGRESS, REMOTE): ALLOW, _row(INGRESS, NODE): ALLOW})
    rig.set_policy(B, {_row(INGRESS, A): ALLOW, _row(INGRESS, REMOTE): ALLOW})


def _row(direction: int, peer: End) -> PolicyKey:
    return row(direction, peer.identity, TCP, _PORT, 16)


def _sample(rig: Rig, program: str, frame: bytes, *, passes: bool = True) -> Sample:
    """All that pod A sends has the MAC address that delivery to B leaves in a frame."""
    fd, frame = rig.datapath.program_fd(program), rig.repeatable(A, B, frame)
    if rig.send(program, frame).passed is not passes:
        raise BenchError(f"{program}: the packet to be measured was {'dropped' if passes else 'let through'}")

    def sample() -> float:
        took = _ns(fd, frame)
        rig.datapath.events.read()
        return took

    return sample


def _ns(fd: int, frame: bytes) -> float:
    return float(syscall.run_program(fd, frame, _REPEAT).duration_ns)


def _rounds(cases: dict[str, Sample]) -> dict[str, list[float]]:
    """Each case once a round, forwards and backwards; the first round is to warm up."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(-1, ROUNDS):
        for name in cases if number % 2 else reversed(cases):
            took = cases[name]()
            if number >= 0:
                samples[name].append(took)
    return samples


def _measure(keeping: Datapath, forgetting: Datapath, shim: Path) -> dict[str, list[float]]:
    bench = _Bench(keeping, forgetting, shim)
    try:
        return _rounds(bench.cases())
    finally:
        bench.close()


@contextmanager
def _datapath(name: str, life_syn_s: int) -> Iterator[Datapath]:
    settings = Settings(
        NODE.ipv4, LO, LO, 8472, ipv6_like(NODE.ipv4), ct_max_entries=1 << 16, events_bytes=_RING,
        wakeup_bytes=2 * _RING, ct_life_syn_s=life_syn_s,
    )  # fmt: skip
    root = _ROOT.with_name(f"{_ROOT.name}-{name}")
    try:
        datapath = load_objects(settings, root)
        yield datapath
        datapath.close()
    finally:
        remove_all(root)


def _floors(samples: dict[str, list[float]]) -> dict[str, float]:
    """How many times the floor of its family, run in the same round, each case takes."""
    return {
        name: round(statistics.median(a / b for a, b in zip(values, samples[_floor_of(name)], strict=True)), 2)
        for name, values in samples.items()
    }


def _floor_of(name: str) -> str:
    return f"{_FLOOR}_{name.rpartition('_')[2]}"


def run() -> None:
    os.sched_setaffinity(0, {bench_cpu()})
    samples: dict[str, list[float]] = {}
    with TemporaryDirectory() as scratch, _datapath("keep", 60) as keeping, _datapath("forget", 0) as forgetting:
        shim = compile_shim(Path(scratch))
        for family in ("ipv4", "ipv6"):
            FAMILY.is_ipv6 = family == "ipv6"
            for name, values in _measure(keeping, forgetting, shim).items():
                samples[f"{name}_{family}"] = values
        instructions = keeping.instructions
    floors = _floors(samples)
    if os.environ.get("KILIM_BENCH_RECORD"):
        _RECORDED.write_text(json.dumps({"floors": floors, "verified": instructions}, indent=2) + "\n")
    recorded = json.loads(_RECORDED.read_text())
    publish("test_run", _costs(samples, floors, recorded["floors"]) + _counts(instructions, recorded["verified"]))


def _costs(samples: dict[str, list[float]], floors: dict[str, float], recorded: dict[str, float]) -> list[Result]:
    results = []
    for name, values in samples.items():
        results.append(compared(f"{name}_ns", "ns", "redirect only", values, samples[_floor_of(name)]))
        if name in recorded and name != _floor_of(name):
            results.append(_against(f"{name}_of_recorded", "floors", floors[name], recorded[name]))
    return results


def _counts(instructions: dict[str, int], recorded: dict[str, int]) -> list[Result]:
    return [
        _against(f"{program}_verified_instructions", "", count, recorded.get(program, count))
        for program, count in instructions.items()
    ]


def _against(metric: str, unit: str, now: float, then: float) -> Result:
    return Result(metric, now, unit, "recorded", then, round(now / then, 3), None, 1)
