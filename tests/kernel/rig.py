"""A loaded datapath, emptied, with two endpoints, and a way to push frames through it and see what became of them."""

from collections.abc import Mapping
from typing import NamedTuple

from kilim.agent.bpf import syscall
from kilim.agent.bpf.datapath import Datapath
from kilim.agent.bpf.rows import endpoint_keys
from kilim.agent.bpf.tables import KernelTables
from kilim.agent.records import AUDIT, CONNECTION, DROP, Record, decode_records
from kilim.model.address import without_host_bits
from kilim.model.mac import node_mac
from kilim.model.tables import AUDITED, EndpointValue, PolicyKey, PolicyRows, TablesDelta
from tests.kernel.frames import CIDR, NODE, OTHER_NODE, REMOTE, A, B, End

PASS, SHOT, REDIRECT = 0, 2, 7

# BPF_PROG_TEST_RUN gives packets the loopback device, so that is where all endpoints are.
LO = 1

INGRESS, EGRESS = 0, 1
BOTH = 3


class Outcome(NamedTuple):
    verdict: int
    reason: int  # 0: not dropped
    records: list[Record]
    frame: bytes

    @property
    def passed(self) -> bool:
        return self.verdict in (PASS, REDIRECT)

    @property
    def audits(self) -> list[tuple[int, int]]:
        """(direction, why it would have been dropped) of what was recorded as passing by audit mode alone."""
        return [(record.direction, record.reason) for record in self.records if record.type == AUDIT]

    @property
    def opened(self) -> bool:
        """Whether it was reported as a new connection."""
        return any(record.type == CONNECTION for record in self.records)


def row(direction: int, peer: int, protocol: int = 0, port: int = 0, port_prefix_len: int = 0) -> PolicyKey:
    return PolicyKey(direction, peer, protocol, port, port_prefix_len)


class Rig:
    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        for name in ("ipcache", "endpoints", "subjects", "policy", "snat", "ipmasq", "fragments"):
            self._empty(name)
        self.forget_connections()
        datapath.events.read()
        self.tables = KernelTables(datapath.maps)
        self._counted_before = self._counters()
        self._seq = 100
        self.write(
            TablesDelta(
                ipcache={
                    NODE.host: (1, 0),
                    OTHER_NODE.host: (6, 0),
                    A.host: (A.identity, 0),
                    B.host: (B.identity, 0),
                    REMOTE.host: (REMOTE.identity, OTHER_NODE.ip),
                    (without_host_bits(CIDR.ip, CIDR.host[1] - 8), CIDR.host[1] - 8): (CIDR.identity, 0),
                },
                endpoints={end.ip: EndpointValue(end.endpoint_id, end.identity) for end in (A, B)},
                subjects={A.identity: 0, B.identity: 0},
            )
        )

    def write(self, delta: TablesDelta, ifindex_of: Mapping[int, int] | None = None) -> None:
        self._seq += 1
        self.tables.write(delta, self._seq, {A.ip: LO, B.ip: LO} if ifindex_of is None else ifindex_of)

    def set_policy(self, subject: End, rows: PolicyRows, enforced: int = BOTH) -> None:
        self.write(TablesDelta(subjects={subject.identity: enforced}, policy={subject.identity: rows}))

    def set_audit_mode(self, *ends: End) -> None:
        """Of these endpoints and no others."""
        flags = {end.ip: AUDITED if end in ends else 0 for end in (A, B)}
        rows = {end.ip: EndpointValue(end.endpoint_id, end.identity, flags[end.ip]) for end in (A, B)}
        self.write(TablesDelta(endpoints={**rows}))

    def forget_connections(self) -> None:
        self._empty("ct")

    def _empty(self, name: str) -> None:
        keys, _ = self.datapath.maps[name].read()
        self.datapath.maps[name].delete(keys)

    def send(self, program: str, frame: bytes, repeat: int = 1) -> Outcome:
        self.datapath.events.read()
        result = syscall.run_program(self.datapath.program_fd(program), frame, repeat)
        records = list(decode_records(self.datapath.events.read()))
        reason = next((record.reason for record in records if record.type == DROP), 0)
        return Outcome(result.retval, reason, records, result.data)

    def repeatable(self, source: End, destination: End, frame: bytes) -> bytes:
        """Delivery writes MAC addresses into the frame, and the next run of it begins with those: until its row is
        written again the source has the one that they leave."""
        endpoints = self.datapath.maps["endpoints"]
        keys, values = endpoints.look_up(endpoint_keys([source.ip]))
        values["mac"] = list(node_mac(destination.endpoint_id))
        endpoints.update(keys, values)
        return frame[:6] + node_mac(destination.endpoint_id) + frame[12:]

    def run(self, frame: bytes, repeat: int = 1) -> None:
        """A pod sends; what becomes of it is not looked at, so that several threads may do it."""
        syscall.run_program(self.datapath.program_fd("from_endpoint"), frame, repeat)

    def out(self, frame: bytes) -> Outcome:
        """A pod sends."""
        return self.send("from_endpoint", frame)

    def from_host(self, frame: bytes) -> Outcome:
        return self.send("to_endpoint", frame)

    def from_wire(self, frame: bytes) -> Outcome:
        return self.send("from_netdev", frame)

    def counters(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(packets, bytes) by (reason, direction), of this rig alone."""
        before = self._counted_before
        differences = {
            key: (packets - before.get(key, (0, 0))[0], octets - before.get(key, (0, 0))[1])
            for key, (packets, octets) in self._counters().items()
        }
        return {key: value for key, value in differences.items() if value[0]}

    def _counters(self) -> dict[tuple[int, int], tuple[int, int]]:
        return {(each.reason, each.direction): (each.packets, each.bytes) for each in self.datapath.counters()}

    def connections(self) -> list[dict[str, str]]:
        columns, listed = self.tables.dump("ct", raw=True)
        return [dict(zip(columns, each, strict=True)) for each in listed]
