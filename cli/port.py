"""`--port 53`, `--port 53/UDP`: a port of a connection and, where it says so, its protocol; of ICMP(v6) the type."""

from typing import Any, NamedTuple

import click

from kilim.cli.failure import BadUsage
from kilim.model.protocols import PROTOCOL_NUMBERS

ECHO_REQUEST = {"ICMP": 8, "ICMPv6": 128}
PORT_FORM = "PORT[/PROTOCOL]"


class Port(NamedTuple):
    number: int
    protocol: str | None


class PortType(click.ParamType):  # type: ignore[type-arg]  # generic in some versions
    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Port:
        if isinstance(value, Port):
            return value
        text, slash, protocol = str(value).partition("/")
        names = {name.upper(): name for name in PROTOCOL_NUMBERS}
        if slash and protocol.upper() not in names:
            raise BadUsage(f'--port: "{value}": protocol must be one of {", ".join(PROTOCOL_NUMBERS)}')
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal()):
            raise BadUsage(
                f'--port: "{value}" must be a number, such as 53 or 53/UDP; names of ports are not looked up'
            )
        return Port(int(text), names.get(protocol.upper()))


PORT = PortType()


def l4_of(port: Port | None, protocol: str | None) -> tuple[int, int]:
    """The number of the protocol, and the port."""
    said = port.protocol if port is not None else None
    if said is not None and protocol not in (None, said):
        raise BadUsage(f"--protocol: {protocol} contradicts --port {port.number if port else 0}/{said}")
    name = said or protocol or "TCP"
    return PROTOCOL_NUMBERS[name], _checked(None if port is None else port.number, name)


def _checked(port: int | None, protocol: str) -> int:
    if protocol in ECHO_REQUEST:
        if port is not None and not 0 <= port <= 255:
            raise BadUsage(f"--port: {port} must be from 0 to 255, the type of {protocol}")
        return ECHO_REQUEST[protocol] if port is None else port
    if port is None:
        raise BadUsage(f"--port: is needed for {protocol}")
    if not 1 <= port <= 65535:
        raise BadUsage(f"--port: {port} must be from 1 to 65535")
    return port
