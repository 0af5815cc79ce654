"""`make performance`: the benches of the datapath, one after another, and their figures in docs/performance.md.

What stands between the two marks of the document is written anew from build/bench/NAME.json; all else is by hand.
`python -m tests.bench.document` writes what has been measured already.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench.__main__ import main as measure
from tests.bench.measure import RESULTS

DOCUMENT = Path("docs/performance.md")
BENCHES = ("datapath", "test_run", "conntrack", "map_memory", "sockops")
_BEGIN, _END = "<!-- figures: make performance -->\n", "<!-- end of figures -->\n"
_FAMILIES = ("ipv4", "ipv6")
_AIMS = {
    "same_node_tcp_rr": ("raw", 0.92),
    "same_node_tcp_crr": ("raw", 0.95),
    "cross_node_native_tcp_rr": ("raw", 0.92),
    "cross_node_native_tcp_crr": ("raw", 0.92),
    "cross_node_vxlan_tcp_rr": ("raw", 1.05),
    "cross_node_vxlan_tcp_crr": ("raw", 1.05),
    "tcp_crr_1000000_entries": ("empty", 1.05),
}

Figure = dict[str, Any]


def _read(name: str) -> list[Figure]:
    try:
        figures: list[Figure] = json.loads((RESULTS / f"{name}.json").read_text())
    except FileNotFoundError as missing:
        sys.exit(f"document: {missing.filename} is missing: make bench NAME={name}")
    return figures


def _table(columns: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _ratio(figure: Figure | None) -> str:
    if not figure:
        return ""
    return f"{figure['ratio']:.2f}" + (f" ± {figure['spread']:.2f}" if figure["rounds"] > 1 else "")


def _transactions() -> str:
    by_metric: dict[str, dict[str, Figure]] = {}
    for each in _read("datapath"):
        by_metric.setdefault(each["metric"].removesuffix("_p50_us"), {})[each["rival"]] = each
    rivals = list(dict.fromkeys(rival for found in by_metric.values() for rival in found))
    rows = []
    for metric, found in by_metric.items():
        ours = next(iter(found.values()))
        others = [_ratio(found.get(rival)) for rival in rivals]
        rows.append([f"`{metric}`", f"{ours['value']:.2f}", f"{found['raw']['rival_value']:.2f}", *others])
    return _table(("", "Kilim µs", "raw µs", *(f"/ {rival}" for rival in rivals)), rows)


def _aims(figures: list[Figure]) -> str:
    """What was to be reached, what was, and what of it a program that only redirects reaches: the least BPF can do."""
    ratios = {(each["metric"].removesuffix("_p50_us"), each["rival"]): each["ratio"] for each in figures}
    rows = []
    for metric, (rival, most) in _AIMS.items():
        found = [ratios.get((f"{metric}_{family}", rival)) for family in _FAMILIES]
        if None in found:
            continue
        floors = [ratios.get((f"{metric}_{family}", "redirect")) for family in _FAMILIES]
        least = [f"{ratio / floor:.2f}" if floor else "" for ratio, floor in zip(found, floors, strict=True)]
        reached = "yes" if max(found) <= most else "no" if min(found) > most else "in one family"
        rows.append(
            [
                f"`{metric}`",
                f"{most:.2f}",
                *(f"{ratio:.2f}" for ratio in found),
                reached,
                ", ".join(filter(None, least)),
            ]
        )
    said = (
        "Kilim's time over that of raw, or of an empty table; beside it what a program that only redirects comes to "
        "over raw, in either family."
    )
    return f"{said}\n\n{_table(('', 'at most', 'IPv4', 'IPv6', 'reached', 'redirect alone'), rows)}"


def _programs() -> str:
    found = {each["metric"]: each for each in _read("test_run")}
    cases = [name.removesuffix("_ipv4_ns") for name in found if name.endswith("_ipv4_ns")]
    rows = []
    for case in cases:
        of_family = [found[f"{case}_{family}_ns"] for family in _FAMILIES]
        rows.append([f"`{case}`", *(text for each in of_family for text in (f"{each['value']:.0f}", _ratio(each)))])
    table = _table(("", "IPv4 ns", "/ redirect", "IPv6 ns", "/ redirect"), rows)
    counts = {name: each for name, each in found.items() if name.endswith("_verified_instructions")}
    listed = (f"`{name.removesuffix('_verified_instructions')}` {each['value']:,}" for name, each in counts.items())
    return f"{table}\nInstructions the verifier walks through: {', '.join(listed)}.\n"


def _connections() -> str:
    rows = []
    for each in _read("conntrack"):
        name = each["metric"].removesuffix("_p50_us")
        rows.append([f"`{name}`", f"{each['value']:.2f}", f"{each['rival_value']:.2f}", _ratio(each)])
    return _table(("", "µs", "empty table µs", "ratio"), rows)


def _accelerated() -> str:
    rows = []
    for each in _read("sockops"):
        name = each["metric"].removesuffix("_p50_us")
        rows.append([f"`{name}`", f"{each['value']:.2f}", f"{each['rival_value']:.2f}", _ratio(each)])
    return _table(("", "µs", "without µs", "ratio"), rows)


def _memory() -> str:
    cases = ("defaults", "100000_endpoints")
    kib = {each["metric"]: each["value"] for each in _read("map_memory")}
    names = [name.removesuffix("_defaults_kib") for name in kib if name.endswith("_defaults_kib")]
    rows = [[f"`{name}`", *(f"{kib[f'{name}_{case}_kib'] / 1024:.1f}" for case in cases)] for name in names]
    return _table(("MiB", "defaults", "100,000 endpoints"), [row for row in rows if row[1:] != ["0.0", "0.0"]])


def _machine(load: float) -> str:
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    model = cpu.partition(": ")[2]
    kernel = platform.release().partition("-")[0]
    when = time.strftime("%Y-%m-%d", time.gmtime())
    return f"{when}: {os.cpu_count()} virtual CPUs ({model}), kernel {kernel}, load average before {load:.1f}.\n"


def write(load: float) -> None:
    text = DOCUMENT.read_text()
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    sections = (
        ("What was to be reached", _aims(_read("datapath") + _read("conntrack"))),
        ("Transactions between two pods", _transactions()),
        ("A packet through one program", _programs()),
        ("A new connection beside many", _connections()),
        ("Memory of a node's maps", _memory()),
        ("Same-node acceleration", _accelerated()),
    )
    figures = "".join(f"\n### {title}\n\n{table}" for title, table in sections)
    DOCUMENT.write_text(f"{before}{_BEGIN}\n{_machine(load)}{figures}\n{_END}{after}")


def run() -> int:
    load = os.getloadavg()[0]
    failed = measure(list(BENCHES))
    if not failed:
        write(load)
    return failed


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        sys.exit(run())
    write(os.getloadavg()[0])
