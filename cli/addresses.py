"""Addresses with ports as people write them: `192.0.2.1:4260`, `[2001:db8::1]:4260`, `replica1:4260`."""

FORM = "HOST:PORT, with an IPv6 address in brackets, [2001:db8::1]:4260"


def split_port(text: str) -> tuple[str, int] | None:
    """(host without brackets, port); None where it is no such thing. A port of 0 is none."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        return None
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not inside or "[" in inside or "]" in inside or (inside == host and ":" in host):
        return None
    return inside, int(port)


def with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
