"""The applications of all pods of a lab in one process: it holds listening sockets that live in the pods' namespaces.

TCP and UDP answer `NAMESPACE/POD ` and the data, TCP as long as the connection lasts; what looks like HTTP gets HTTP;
SCTP answers INIT. What is served is in `workloads.json`, so that a restarted server goes on with it.
"""

import asyncio
import json
import socket
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, cast

from kilim.lab.names import run_dir
from kilim.lab.netns import in_netns
from kilim.lab.sctp import INIT, IPPROTO_SCTP, decode_sctp, encode_abort, encode_init_ack
from kilim.lab.topology import write_atomically

_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")
_KINDS = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_RAW, IPPROTO_SCTP),
}


class TcpAnswer(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if not data.startswith(_HTTP_METHODS):
            self._transport.write(self._name + b" " + data)
            return
        body = b"" if data.startswith(b"HEAD ") else self._name + b"\n"
        length = len(self._name) + 1
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (length, body)
        )
        if b"connection: close" in data.lower() or b" HTTP/1.0" in data:
            self._transport.close()


class UdpAnswer(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio of 3.11 gives a transport that is no instance of DatagramTransport
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self._transport is not None
        self._transport.sendto(self._name + b" " + data, addr)


@dataclass(slots=True)
class Served:
    """What one pod, external or node listens on."""

    request: dict[str, Any]
    servers: list[asyncio.Server] = field(default_factory=list)
    transports: list[asyncio.DatagramTransport] = field(default_factory=list)
    raw: list[socket.socket] = field(default_factory=list)


class Workloads:
    def __init__(self, lab: str) -> None:
        self._state_file = run_dir(lab) / "workloads.json"
        self._served: dict[str, Served] = {}

    def saved_requests(self) -> list[dict[str, Any]]:
        if not self._state_file.exists():
            return []
        saved = json.loads(self._state_file.read_text())
        return [request for request in saved if Path(request["netns"]).exists()]

    async def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replaces what the key served before. A port that cannot be had is reported; the others are served."""
        self._close(request["key"])
        await asyncio.sleep(0)  # a transport lets go of its port in the loop's next turn, not at once
        served = self._served[request["key"]] = Served(request)
        sctp_ports = {p["port"] for p in request["ports"] if p["protocol"] == "SCTP"}
        wanted = {(p["protocol"], p["port"]) for p in request["ports"] if p["protocol"] != "SCTP"}
        if sctp_ports:
            wanted.add(("SCTP", 0))
        opened, errors = in_netns(Path(request["netns"]), lambda: _open_all(request["addresses"], sorted(wanted)))
        for protocol, opened_socket in opened:
            await self._answer(served, protocol, opened_socket, sctp_ports)
        self._save()
        return {"ok": not errors, "errors": errors}

    def drop(self, key: str) -> dict[str, Any]:
        self._close(key)
        self._save()
        return {"ok": True}

    async def _answer(self, served: Served, protocol: str, opened: socket.socket, sctp_ports: set[int]) -> None:
        loop = asyncio.get_running_loop()
        name = served.request["key"]
        if protocol == "TCP":
            served.servers.append(await loop.create_server(lambda: TcpAnswer(name), sock=opened))
        elif protocol == "UDP":
            transport, _ = await loop.create_datagram_endpoint(lambda: UdpAnswer(name), sock=opened)
            served.transports.append(transport)
        else:
            served.raw.append(opened)
            loop.add_reader(opened, _answer_sctp, opened, sctp_ports, name.encode())

    def _close(self, key: str) -> None:
        served = self._served.pop(key, None)
        if served is None:
            return
        for server in served.servers:
            server.close()
        for transport in served.transports:
            transport.abort()
        for raw in served.raw:
            asyncio.get_running_loop().remove_reader(raw)
            raw.close()

    def _save(self) -> None:
        write_atomically(self._state_file, [served.request for served in self._served.values()])


def _open_all(addresses: list[str], wanted: list[tuple[str, int]]) -> tuple[list[tuple[str, socket.socket]], list[str]]:
    opened, errors = [], []
    for address, (protocol, port) in product(addresses, wanted):
        kind, number = _KINDS[protocol]
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, number)
        listener.setblocking(False)
        try:
            if ":" in address and protocol != "SCTP":  # a raw socket is of one family by itself
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "TCP":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if protocol != "SCTP":
                listener.bind((address, port))
            if protocol == "TCP":
                listener.listen(512)
            opened.append((protocol, listener))
        except OSError as error:
            listener.close()
            errors.append(f"{protocol} {port}: {error.strerror}")
    return opened, errors


def _answer_sctp(raw: socket.socket, ports: set[int], name: bytes) -> None:
    try:
        packet, peer = raw.recvfrom(65535)
        init = decode_sctp(packet, with_ip_header=raw.family == socket.AF_INET)
        if init and init.chunk == INIT:
            answer = encode_init_ack(init, name) if init.destination_port in ports else encode_abort(init)
            raw.sendto(answer, (peer[0], 0, *peer[2:]))  # IPv6 gives a port that it does not take back
    except OSError:
        return  # the peer sends again


async def serve_workloads(lab: str) -> None:
    workloads = Workloads(lab)
    for request in workloads.saved_requests():
        await workloads.serve(request)

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            request = json.loads(line)
            answer = workloads.drop(request["key"]) if request["op"] == "drop" else await workloads.serve(request)
            writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    socket_path = run_dir(lab) / "workloads.sock"
    socket_path.unlink(missing_ok=True)
    async with await asyncio.start_unix_server(control, path=socket_path, limit=1 << 20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve_workloads(sys.argv[1]))
