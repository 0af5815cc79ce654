"""`kilim controlplane|cni`: reads the flags of ARCHITECTURE.md, "Processes", into settings, and runs.

Every flag may also come from the environment, KILIM_CONTROLPLANE_NAME for example.
"""

from typing import Any

import click

from kilim.cli.command import Command
from kilim.cli.failure import BadUsage
from kilim.cli.flag_types import (
    DIRECTORY,
    Address,
    EtcdEndpoint,
    IpCidr,
    Several,
    log_format,
    log_format_option,
)

DEFAULT_PORT = 4260


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
    settings = Settings(**{**flags, "log_format": log_format(flags["log_format"])})
    try:
        settings.check()
    except ValueError as error:
        raise BadUsage(f"--{error}") from None
    context.exit(run(settings))


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
