"""What each program costs: instructions that the verifier walks through and that the program has, the most over all
settings. Recorded in instructions.json; `make instructions` does that anew."""

import json
import os
from dataclasses import replace
from itertools import product
from pathlib import Path

from kilim.agent.bpf import syscall
from kilim.agent.bpf.bpffs import ensure_bpffs
from kilim.agent.bpf.datapath import Settings, remove_all
from kilim.agent.bpf.objects import PROGRAMS, load_program
from kilim.agent.bpf.sockops import OBJECT
from kilim.model.address import parse_ip

TOLERANCE = 1.05  # another patch level of clang or kernel moves some instructions

OBJECTS = (*PROGRAMS, OBJECT)

_RECORD = Path(__file__).with_name("instructions.json")
_IPV4, _IPV6 = parse_ip("192.168.60.1"), parse_ip("fd00:60::1")

# A new setting that a program branches on is one more factor here.
COMBINATIONS = [
    Settings(ipv4, underlay, tunnel, port, node_ipv6=ipv6, record_connections=records, ct_max_entries=4096)
    for (ipv4, ipv6), underlay, (tunnel, port), records in product(
        ((_IPV4, 0), (0, _IPV6), (_IPV4, _IPV6)), (0, 2), ((0, 0), (3, 8472)), (False, True)
    )
]
COMBINATIONS += [
    replace(settings, masquerade_ipv4=ipv4, masquerade_ipv6=ipv6, masquerade_exempts=exempts)
    for settings, (ipv4, ipv6), exempts in product(
        [each for each in COMBINATIONS if each.underlay_ifindex and each.record_connections],
        ((False, True), (True, False), (True, True)),
        (False, True),
    )
]


def measure(program: str, root: Path) -> dict[str, int]:
    """Loads it with each combination. Raises LoadError with the verifier's log."""
    ensure_bpffs(root)
    price = {"verified": 0, "loaded": 0}
    for settings in COMBINATIONS:
        loaded = load_program(program, replace(settings, sockops_version=1), root / "maps")
        instructions = sum(syscall.prog_info(fd).instructions for fd in loaded.fds.values())
        price["verified"] = max(price["verified"], loaded.processed_instructions[program])
        price["loaded"] = max(price["loaded"], instructions)
        for fd in loaded.fds.values():
            os.close(fd)
    return price


def recorded_prices() -> dict[str, dict[str, int]]:
    prices: dict[str, dict[str, int]] = json.loads(_RECORD.read_text())
    return prices


def main() -> None:
    root = Path("/sys/fs/bpf/kilim-instructions")
    try:
        prices = {program: measure(program, root) for program in OBJECTS}
    finally:
        remove_all(root)
    _RECORD.write_text(json.dumps(prices, indent=2) + "\n")
    print(_RECORD.read_text(), end="")


if __name__ == "__main__":
    main()
