"""`kilim agent --cleanup`: nothing that an agent has made stays on the node, and nothing else goes."""

import asyncio
import ctypes
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilim.agent.bpf import syscall
from kilim.agent.netlink.session import ROUTE_PROTOCOL, open_netlink
from kilim.lab import api, cluster, faults
from kilim.lab.commands import agent_socket
from kilim.lab.names import pin_dir
from kilim.lab.netns import in_netns
from kilim.lab.process import kilim_argv, stop_process
from kilim.lab.topology import Lab

NODE = "node1"
OTHER_PROTOCOL = 121
PROG_QUERY = 16
UNREACHABLE = 7  # RTN_UNREACHABLE


@pytest.fixture
def lab(name_prefix: str) -> Iterator[Lab]:
    name = f"{name_prefix}-c"
    try:
        yield asyncio.run(api.up(name, nodes=1, replicas=1))
    finally:
        api.down(name)


def cleanup(
    lab: Lab, *arguments: str, run_dir: Path | None = None, enter: tuple[str, ...] = ()
) -> tuple[int, list[str], str]:
    run_dir = run_dir or lab.node_run_dir(NODE)
    places = ("--bpf-root", pin_dir(lab.name) / NODE, "--run-dir", run_dir, "--state-dir", run_dir / "state")
    argv = kilim_argv("agent", "--cleanup", *map(str, places), *arguments)
    enter = enter or ("nsenter", f"--net={lab.netns(NODE)}", "--")
    done = subprocess.run([*enter, *argv], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


async def has_own_cidrs(lab: Lab) -> None:
    """The last that an agent makes at its start: routes that make what no pod has of its pod CIDRs unreachable."""

    def count() -> int:
        with open_netlink() as ipr:
            routes = [route for family in (2, 10) for route in ipr.get_routes(family=family, proto=ROUTE_PROTOCOL)]
            return sum(route["type"] == UNREACHABLE for route in routes)

    async with asyncio.timeout(20):
        while True:
            if in_netns(lab.netns(NODE), count) == 2:
                return
            await asyncio.sleep(0.05)


def add_others() -> None:
    """What the cleanup is to find though no agent wrote it, and what looks like ours and is not."""
    with open_netlink() as ipr:
        ipr.link("add", ifname="lxc0123456789a", kind="veth", peer={"ifname": "other"})
        ipr.link("add", ifname="vx", kind="vxlan", vxlan_collect_metadata=1, vxlan_port=4789)
        for protocol, number in ((ROUTE_PROTOCOL, 1), (OTHER_PROTOCOL, 2)):
            for family, prefix in (
                (socket.AF_INET, f"203.0.113.{number}/32"),
                (socket.AF_INET6, f"2001:db8::{number}/128"),
            ):
                for table in (254, 77):
                    ipr.route("add", dst=prefix, oif=1, proto=protocol, table=table)
                ipr.rule("add", family=family, priority=100 + number, table=77, protocol=protocol)


def present(lab: Lab) -> tuple[set[str], list[int], list[int], set[str]]:
    """Names of links, protocols of routes and rules that are not the kernel's, permanent neighbours."""

    def look() -> tuple[set[str], list[int], list[int], set[str]]:
        with open_netlink() as ipr:
            links = {link.get_attr("IFLA_IFNAME") for link in ipr.get_links()}
            families = (socket.AF_INET, socket.AF_INET6)
            all_routes = [route for family in families for route in ipr.get_routes(family=family)]
            routes = [route["proto"] for route in all_routes if route["proto"] > OTHER_PROTOCOL - 10]
            all_rules = [rule.get_attr("FRA_PROTOCOL") for family in families for rule in ipr.get_rules(family=family)]
            rules = [protocol for protocol in all_rules if protocol > 100]
            known = [each for family in families for each in ipr.get_neighbours(family=family)]
            neighbours = {each.get_attr("NDA_DST") for each in known if each["state"] & 0x80}
        return links, sorted(routes), rules, neighbours

    return in_netns(lab.netns(NODE), look)


def everything(lab: Lab) -> tuple[object, set[Path]]:
    pins = pin_dir(lab.name) / NODE
    return present(lab), {*pins.rglob("*"), *lab.node_run_dir(NODE).rglob("*")}


def attached_programs(lab: Lab) -> int:
    """At any device of the node, by tcx."""

    def count() -> int:
        found = 0
        with open_netlink() as ipr:
            for link in ipr.get_links():
                for hook in (syscall.TCX_INGRESS, syscall.TCX_EGRESS):
                    attr = ctypes.create_string_buffer(struct.pack("<IIIIQIIQQQQ", link["index"], hook, *[0] * 9))
                    syscall.bpf(PROG_QUERY, attr)
                    found += struct.unpack_from("<I", attr, 24)[0]
        return found

    return in_netns(lab.netns(NODE), count)


def test_every_trace_goes_and_nothing_else_and_the_node_can_begin_anew(lab: Lab, tmp_path: Path) -> None:
    asyncio.run(has_own_cidrs(lab))
    in_netns(lab.netns(NODE), add_others)
    assert attached_programs(lab)
    pins, run_dir = pin_dir(lab.name) / NODE, lab.node_run_dir(NODE)
    (run_dir / "state" / "mine").write_text("a user's file")
    before = everything(lab)
    status, said, error = cleanup(lab)
    assert status == 1 and not said and error == f"error: an agent is running over {run_dir}: stop it first\n"
    status, said, error = cleanup(lab, run_dir=tmp_path)
    assert status == 1 and not said
    assert error == "error: an agent is running in this network namespace: stop it first\n"
    assert everything(lab) == before
    stop_process(lab.name, NODE)
    before = everything(lab)
    status, said, error = cleanup(lab, enter=("ip", "netns", "exec", lab.netns(NODE).name))
    assert status == 1 and not said and error.startswith("error: --bpf-root: there is no bpffs at "), error
    assert everything(lab) == before
    status, would, error = cleanup(lab, "--dry-run")
    assert (status, error) == (0, "") and everything(lab) == before
    status, said, error = cleanup(lab)
    assert (status, error) == (0, "")
    gone = {line.removeprefix("removed ") for line in said}
    more = {line.removeprefix("would remove ") for line in would} - gone
    assert gone and all(line.startswith("route ") for line in more), "only routes go by themselves, with their link"
    of_pods = [place for place, line in enumerate(said) if line.startswith("removed link of pod ")]
    of_programs = [place for place, line in enumerate(said) if line.startswith("removed program ")]
    assert max(of_pods) < min(of_programs), "no pod is connected without its programs"
    assert "removed tunnel kilim_vxlan" in said and "removed rule 101" in said
    assert sum(line.startswith("removed link of pod ") for line in said) >= 6
    links, routes, rules, neighbours = present(lab)
    assert not {name for name in links if name.startswith(("lxc", "kilim"))} - {"lxc0123456789a"}
    assert {"lxc0123456789a", "vx", "lo"} <= links and not neighbours
    assert routes == [OTHER_PROTOCOL] * 4 and rules == [OTHER_PROTOCOL] * 2
    assert not pins.exists() and not Path(agent_socket(lab, NODE)).exists()
    assert [path.name for path in (run_dir / "state").iterdir()] == ["mine"]
    assert not attached_programs(lab), "programs at the underlay"
    assert cleanup(lab) == (0, ["nothing of an agent is on this node"], "")

    faults.restart(lab, NODE)
    asyncio.run(cluster.wait_ready(lab))
