"""`kilim controlplane|agent|cni`: reads the flags of ARCHITECTURE.md, "Processes", into settings, and runs.

Every flag may also come from the environment, KILIM_CONTROLPLANE_NAME or KILIM_AGENT_NODE_NAME for example.
"""

import ipaddress
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kilim.cli.addresses import FORM, split_port, with_port
from kilim.cli.command import Command
from kilim.cli.duration import DURATION
from kilim.cli.failure import BadUsage, Failure

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_PORT = 4260
LEAST_PROBE_INTERVAL_S = 0.5
DIRECTORY = click.Path(file_okay=False, path_type=Path)


class Address(click.ParamType[str]):
    """HOST:PORT, or unix:PATH where that is allowed."""

    name = "address"

    def __init__(self, unix: bool = False) -> None:
        self.unix = unix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if self.unix and text.startswith("unix:/"):
            return text
        parts = split_port(text)
        if parts is None:
            self.fail(f'"{text}" must be {FORM}' + (", or unix:/PATH" if self.unix else ""), param, ctx)
        return with_port(*parts)


class NodeIp(click.ParamType[str]):
    """An address that other nodes can reach."""

    name = "ip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kilim.model.address import format_ip, parse_ip

        try:
            text = format_ip(parse_ip(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        ip = ipaddress.ip_address(text)
        if ip.is_unspecified or ip.is_loopback or ip.is_multicast or (ip.version == 6 and ip.is_link_local):
            self.fail(f'"{text}" is not an address that other nodes can reach', param, ctx)
        return text


class IpCidr(click.ParamType[str]):
    name = "cidr"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kilim.model.address import parse_cidr

        try:
            cidr = str(parse_cidr(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if ipaddress.ip_interface(str(value)) != ipaddress.ip_interface(cidr):
            self.fail(f'"{value}" has bits set behind its prefix, {cidr} is meant', param, ctx)
        return cidr


class Several(click.ParamType[tuple[str, ...]]):
    """Values of one kind with commas between them."""

    name = "list"

    def __init__(self, one: click.ParamType[str]) -> None:
        self.one = one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not parts:
            self.fail("must not be empty", param, ctx)
        return tuple(self.one.convert(part, param, ctx) for part in parts)


class LabelList(click.ParamType[tuple[tuple[str, str], ...]]):
    """KEY=VALUE with commas between them; what they may be the control plane says."""

    name = "labels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, str], ...]:
        if isinstance(value, tuple):
            return value
        labels: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in str(value).split(","))):
            key, equals, text = part.partition("=")
            if not equals or not key:
                self.fail(f'"{part}" must be KEY=VALUE', param, ctx)
            if key in labels:
                self.fail(f'"{key}" is there twice', param, ctx)
            labels[key] = text
        return tuple(labels.items())


def log_format_option(function: F) -> F:
    form = click.Choice(["auto", "json", "console"])
    return click.option(
        "--log-format", type=form, default="auto", show_default=True, help="auto: console on a terminal, else JSON."
    )(function)


class EtcdEndpoint(click.ParamType[str]):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).rstrip("/")
        scheme, _, target = text.partition("://")
        parts = split_port(target)
        if scheme not in ("http", "https") or "/" in target or parts is None:
            self.fail(f'"{value}" must be http://{FORM}', param, ctx)
        return f"{scheme}://{with_port(*parts)}"


@click.command(
    cls=Command,
    example="""
    kilim controlplane --name replica1 --embedded-etcd /var/lib/kilim/etcd
    kilim controlplane --name replica2 --etcd-endpoints http://192.0.2.1:2379 --listen 192.0.2.2:4260
    """,
    context_settings={"auto_envvar_prefix": "KILIM_CONTROLPLANE"},
)
@click.option("--name", required=True, help="This replica.")
@click.option("--etcd-endpoints", type=Several(EtcdEndpoint()), metavar="URL,…", help="An etcd cluster that there is.")
@click.option("--embedded-etcd", type=DIRECTORY, metavar="DIR", help="Start an etcd of one's own, with its data here.")
@click.option(
    "--listen", type=Address(unix=True), multiple=True, default=[f"127.0.0.1:{DEFAULT_PORT}"], show_default=True,
    help="Where to serve: HOST:PORT or unix:PATH; may be given often.",
)  # fmt: skip
@click.option("--advertise", type=Address(), help="What others reach it by. [default: the first --listen]")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
@click.option(
    "--cluster-pool-ipv4-cidr", type=IpCidr(), default="10.244.0.0/16", show_default=True,
    help="What nodes with an IPv4 address and without a --pod-cidr of that family get theirs from.",
)  # fmt: skip
@click.option("--cluster-pool-ipv4-mask-size", type=int, default=24, show_default=True, help="How long theirs are.")
@click.option(
    "--cluster-pool-ipv6-cidr", type=IpCidr(), default="fd00:10:244::/48", show_default=True,
    help="What nodes with an IPv6 address and without a --pod-cidr of that family get theirs from.",
)  # fmt: skip
@click.option("--cluster-pool-ipv6-mask-size", type=int, default=64, show_default=True, help="How long theirs are.")
@click.option(
    "--log-archive-dir", type=DIRECTORY, metavar="DIR",
    help="Write events here before they are trimmed from etcd; a directory of this replica's own.",
)  # fmt: skip
@click.option(
    "--prometheus-serve-addr", type=Address(), help="Serve metrics here, HOST:PORT, at /metrics. [default: nowhere]"
)
@log_format_option
@click.pass_context
def controlplane(context: click.Context, /, **flags: Any) -> None:
    """Run one replica of the control plane, until SIGTERM."""
    from kilim.controlplane.decide.pool import ClusterPool
    from kilim.controlplane.runtime import Settings, run

    if flags["etcd_endpoints"] and flags["embedded_etcd"]:
        raise BadUsage("--embedded-etcd: goes without --etcd-endpoints")
    if not flags["etcd_endpoints"] and not flags["embedded_etcd"]:
        raise BadUsage("--etcd-endpoints: must be given, or --embedded-etcd DIR")
    flags |= {"etcd_endpoints": flags["etcd_endpoints"] or (), "advertise": flags["advertise"] or ""}
    flags["prometheus_serve_addr"] = flags["prometheus_serve_addr"] or ""
    for pool in ("cluster_pool_ipv4", "cluster_pool_ipv6"):
        flags[pool] = ClusterPool(flags.pop(f"{pool}_cidr"), flags.pop(f"{pool}_mask_size"))
    settings = Settings(**{**flags, "log_format": _format(flags["log_format"])})
    try:
        settings.check()
    except ValueError as error:
        raise BadUsage(f"--{error}") from None
    context.exit(run(settings))


class ToRun(click.Option):
    """Must be given, unless the command is to do something else than run."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        if ctx.params.get("cleanup"):
            return None
        return super().process_value(ctx, value)


def _format(choice: str) -> str:
    return choice if choice != "auto" else "console" if sys.stderr.isatty() else "json"


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
    "--node-ip", cls=ToRun, type=Several(NodeIp()), multiple=True, required=True, metavar="IP[,IP]",
    help="Its address on the underlay; or two, an IPv4 and an IPv6 one. Pods get an address of each family given here.",
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
    flags |= {"log_format": _format(flags["log_format"]), "prometheus_serve_addr": flags["prometheus_serve_addr"] or ""}
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


@click.command(
    cls=Command,
    example="""
    CNI_COMMAND=VERSION kilim cni < /etc/cni/net.d/05-kilim.conflist
    CNI_COMMAND=STATUS kilim cni <<< '{"cniVersion": "1.1.0", "name": "kilim", "type": "kilim-cni"}'
    """,
)
def cni() -> None:
    """The CNI plugin, as kubelet calls it: CNI_* in the environment, the configuration on standard input.

    The executable kilim-cni is the same and starts faster.
    """
    from kilim.agent.cni.plugin import main

    raise SystemExit(main())
