"""`kilim agent`: reads its flags into settings, and runs, or cleans up. Every flag may also come from the environment,
KILIM_AGENT_NODE_NAME for example."""

import os
from typing import Any

import click

from kilim.cli.agent_options import connection_options, masquerade_options, native_routing_cidrs, sockops_options
from kilim.cli.command import Command
from kilim.cli.duration import DURATION
from kilim.cli.failure import BadUsage, Failure
from kilim.cli.flag_types import (
    DIRECTORY,
    Address,
    IpCidr,
    LabelList,
    NodeIp,
    Several,
    log_format,
    log_format_option,
)

LEAST_PROBE_INTERVAL_S = 0.5


class ToRun(click.Option):
    """Must be given, unless the command is to do something else than run."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        if ctx.params.get("cleanup"):
            return None
        return super().process_value(ctx, value)


@click.command(
    cls=Command,
    example="""
    kilim agent --node-name node1 --node-ip 192.0.2.11 --servers 192.0.2.1:4260,192.0.2.2:4260
    kilim agent --node-name node1 --node-ip 192.0.2.11,2001:db8::11 --servers 192.0.2.1:4260,192.0.2.2:4260
    kilim agent --cleanup --dry-run
    """,
    context_settings={"auto_envvar_prefix": "KILIM_AGENT"},
)
@click.option("--node-name", cls=ToRun, required=True, help="This node.")
@click.option(
    "--node-ip", type=Several(NodeIp()), multiple=True, metavar="IP[,IP]",
    help="Its address on the underlay; or two, an IPv4 and an IPv6 one. Pods get an address of each family given here. "
    "[default: those of the device; one that changes is noticed]",
)  # fmt: skip
@click.option(
    "--servers",
    cls=ToRun,
    type=Several(Address()),
    required=True,
    metavar="HOST:PORT,…",
    help="Control plane replicas.",
)
@click.option(
    "--pod-cidr", "pod_cidrs", type=IpCidr(), multiple=True,
    help="Addresses for this node's pods, IPv4 or IPv6; may be given often. [default: the control plane gives them]",
)  # fmt: skip
@click.option(
    "--node-labels", type=LabelList(), default=(), metavar="KEY=VALUE,…",
    help="Labels of this node, by which policies select it; kubernetes.io/hostname and /os are there by themselves.",
)  # fmt: skip
@click.option("--state-dir", type=DIRECTORY, default="/var/lib/kilim", show_default=True, help="The cache of the log.")
@click.option(
    "--run-dir",
    type=DIRECTORY,
    default="/run/kilim",
    show_default=True,
    help="Where its sockets are: agent.sock, cni.sock.",
)
@click.option(
    "--bpf-root", type=DIRECTORY, default="/sys/fs/bpf/kilim", show_default=True, help="Where maps are pinned."
)
@click.option(
    "--routing-mode", type=click.Choice(["tunnel", "native"]), default="tunnel", show_default=True,
    help="How packets reach pods of other nodes: in VXLAN, or as they are, by routes. The same on all nodes.",
)  # fmt: skip
@click.option(
    "--auto-direct-node-routes", is_flag=True,
    help="native: write routes to the pods of all nodes, which then must be neighbours on the underlay.",
)  # fmt: skip
@masquerade_options
@connection_options
@sockops_options
@click.option(
    "--devices",
    type=Several(click.STRING),
    default=(),
    metavar="DEVICE[,DEVICE]",
    help="Devices towards the wire, VLANs among them. The first that has addresses is the underlay. "
    "[default: that of --node-ip, or of the default route]",
)
@click.option("--tunnel-port", type=click.IntRange(1, 65535), default=8472, show_default=True, help="VXLAN's UDP port.")
@click.option(
    "--mtu", type=click.IntRange(0, 65535), default=0, help="Of the underlay, in bytes. [default: read from its device]"
)
@click.option(
    "--datapath-mode", type=click.Choice(["veth", "memory"]), default="veth", show_default=True,
    help="memory: rows are kept in memory; no kernel, no CNI, no root. For runs with many agents on one machine.",
)  # fmt: skip
@click.option(
    "--datapath-attach", type=click.Choice(["auto", "tcx", "clsact"]), default="auto", show_default=True,
    help="How programs are attached. auto: by tcx where the kernel has it (6.6 or newer).",
)  # fmt: skip
@click.option(
    "--enable-health-checking", type=bool, default=True, show_default=True, metavar="BOOL",
    help="Probe the other nodes and answer their probes.",
)  # fmt: skip
@click.option(
    "--enable-endpoint-health-checking", type=bool, default=True, show_default=True, metavar="BOOL",
    help="Have a health endpoint of its own, which the other nodes probe on the way of pods.",
)  # fmt: skip
@click.option(
    "--health-probe-interval", "health_probe_interval_s", type=DURATION, default="60s", show_default=True,
    envvar="KILIM_AGENT_HEALTH_PROBE_INTERVAL",
    help="From one probe of a node to the next; longer with many nodes. At least 500ms.",
)  # fmt: skip
@click.option(
    "--cluster-health-port", type=click.IntRange(1, 65535), default=4240, show_default=True,
    help="TCP port of the health checks, the same on all nodes.",
)  # fmt: skip
@click.option(
    "--prometheus-serve-addr", type=Address(), help="Serve metrics here, HOST:PORT, at /metrics. [default: nowhere]"
)
@log_format_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True,
    help="The least that is logged.",
)  # fmt: skip
@click.option(
    "--cleanup", is_flag=True, is_eager=True,
    help="Run nothing, but remove what agents have left on this node: programs, pins, links of pods, routes, files.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="With --cleanup: only say what it would remove.")
@click.pass_context
def agent(context: click.Context, /, **flags: Any) -> None:
    """Run the agent of a node, until SIGTERM. What it has put into the kernel goes on without it, until --cleanup."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts threads for algebra, of which we have none

    cleanup, dry_run = flags.pop("cleanup"), flags.pop("dry_run")
    if cleanup:
        return _clean_up(flags, dry_run)
    if dry_run:
        raise BadUsage("--dry-run: goes with --cleanup alone")

    from kilim.agent.runtime import run
    from kilim.agent.settings import Settings

    if flags["health_probe_interval_s"] < LEAST_PROBE_INTERVAL_S:
        raise BadUsage("--health-probe-interval: must be at least 500ms")
    if flags["auto_direct_node_routes"] and flags["routing_mode"] != "native":
        raise BadUsage("--auto-direct-node-routes: goes with --routing-mode native alone")
    flags["log_format"] = log_format(flags["log_format"])
    flags["prometheus_serve_addr"] = flags["prometheus_serve_addr"] or ""
    flags["native_routing_cidrs"] = native_routing_cidrs(flags)
    if flags["datapath_mode"] == "memory" and not flags["node_ip"]:
        raise BadUsage("--node-ip: must be given with --datapath-mode memory")
    flags |= _of_families([ip for several in flags.pop("node_ip") for ip in several])
    context.exit(run(Settings(**flags)) or 0)


def _clean_up(flags: dict[str, Any], dry_run: bool) -> None:
    from kilim.agent.cleanup import clean_node
    from kilim.agent.lock import Held

    try:
        done = clean_node(flags["bpf_root"], flags["run_dir"], flags["state_dir"], dry_run=dry_run)
    except OSError as error:
        raise Failure(f"{error}: stop it first" if isinstance(error, Held) else str(error)) from None
    for what in done.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {what}")
    if not done.removed and not done.failed:
        click.echo("nothing of an agent is on this node")
    if done.failed:
        raise Failure(f"not removed: {'; '.join(done.failed)}")


def _of_families(node_ips: list[str]) -> dict[str, str]:
    """What the settings know them by."""
    found = {"node_ip": "", "node_ipv6": ""}
    for ip in node_ips:
        name = "node_ipv6" if ":" in ip else "node_ip"
        if found[name] not in ("", ip):
            raise BadUsage(f"--node-ip: {found[name]} and {ip} are of one family; at most one of each may be given")
        found[name] = ip
    return found
