"""`kilim lab`: the cluster itself, up and down, and how it is. Scenarios, pods and faults have rooms of their own."""

import asyncio
from typing import Any

import click

from kilim.cli.command import LazyGroup
from kilim.cli.lab_command import LabCommand, lab_option, named_lab_option
from kilim.cli.output import output_option, print_data
from kilim.cli.progress import steps
from kilim.cli.table import table

SECTIONS = {
    "Cluster": {
        "up": ("kilim.cli.lab:up", "Start a cluster, with an application of six pods"),
        "down": ("kilim.cli.lab:down", "Remove a cluster and every trace of it"),
        "list": ("kilim.cli.lab:list_labs", "The labs of this machine"),
        "status": ("kilim.cli.lab:status", "Nodes, pods, replicas and etcd members of a lab"),
        "demo": ("kilim.cli.lab:demo", "The main job, shown from beginning to end"),
    },
    "Traffic": {
        "apply": ("kilim.cli.pod:lab_apply", "Apply YAML to a lab, and start the pods in it"),
        "exec": ("kilim.cli.pod:exec_", "Run a command in a pod"),
        "pod": ("kilim.cli.pod:pod", "Add and delete pods"),
        "probe": ("kilim.cli.scenario:probe", "Send traffic from one place to another"),
        "run": ("kilim.cli.scenario:run", "Play scenarios and compare verdicts"),
    },
    "Faults": {
        "kill": ("kilim.cli.fault:kill", "Kill a process, by default with SIGKILL"),
        "pause": ("kilim.cli.fault:pause", "Stop a process with SIGSTOP"),
        "resume": ("kilim.cli.fault:resume", "Let a paused process go on"),
        "restart": ("kilim.cli.fault:restart", "End a process where it runs, and start it again"),
        "partition": ("kilim.cli.fault:partition", "Cut a member off from the network"),
        "heal": ("kilim.cli.fault:heal", "Undo partitions"),
    },
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def lab() -> None:
    """A real cluster on this machine: nodes, pods, replicas and etcd, all with real traffic."""


@click.command(
    cls=LabCommand,
    example="kilim lab up\nkilim lab up --name two --nodes 5 --replicas 1 --no-app\nkilim lab up --ip-families IPv6",
)
@named_lab_option
@click.option("--nodes", type=click.IntRange(min=1), default=3, show_default=True, help="How many nodes.")
@click.option("--replicas", type=click.IntRange(min=1), default=3, show_default=True, help="Control plane replicas.")
@click.option("--etcd-members", type=click.IntRange(min=1), default=1, show_default=True, help="Members of etcd.")
@click.option("--app/--no-app", default=True, show_default=True, help="With the application of six pods.")
@click.option(
    "--ip-families", type=click.Choice(["IPv4", "IPv6", "IPv4,IPv6"]), default="IPv4,IPv6", show_default=True,
    help="Of nodes and pods.",
)  # fmt: skip
@click.option(
    "--agent-option", "agent_options", multiple=True, metavar="OPTION=VALUE",
    help="Start every agent with --OPTION=VALUE, too; may be given often.",
)  # fmt: skip
@click.option(
    "--routed-pods/--no-routed-pods", default=True, show_default=True,
    help="Whether the underlay itself knows the way to pods, as a cloud's route tables do.",
)  # fmt: skip
def up(
    lab: str, nodes: int, replicas: int, etcd_members: int, app: bool, ip_families: str,
    agent_options: tuple[str, ...], routed_pods: bool,
) -> None:  # fmt: skip
    """Start a cluster, with an application of six pods."""
    from kilim.lab import api

    with steps(f"lab {lab}") as progress:
        made = asyncio.run(
            api.up(
                lab,
                nodes,
                replicas,
                etcd_members,
                app,
                progress,
                ip_families=tuple(ip_families.split(",")),
                agent_options=tuple(f"--{option}" for option in agent_options),
                routed_pods=routed_pods,
            )
        )
    suffix = "" if lab == "kilim" else f" --name {lab}"
    click.echo(f"lab {lab} is up: {len(made.nodes)} nodes, {len(made.replicas)} replicas, {len(made.etcd)} etcd")
    click.echo(f"try: kilim lab status{suffix}; kilim status; kilim get pods -A; kilim lab down{suffix}")


@click.command(cls=LabCommand, example="kilim lab down")
@named_lab_option
def down(lab: str) -> None:
    """Remove a cluster and every trace of it, also after a crash."""
    from kilim.lab import api

    with steps(f"lab {lab}") as progress:
        progress("removing")
        existed = api.down(lab)
    click.echo(f"lab {lab} is gone" if existed else f"there is no lab {lab}")


@click.command("list", cls=LabCommand, example="kilim lab list")
@output_option("json", "name")
def list_labs(output: str | None) -> None:
    """The labs of this machine, also those that a crash left."""
    from kilim.lab import api

    labs = api.list_labs()
    if output == "json":
        print_data(labs, output)
    else:
        for name in labs:
            click.echo(name)


@click.command(cls=LabCommand, example="kilim lab status\nkilim lab status -o json | jq .pods")
@lab_option
@output_option("json", "yaml", "wide")
def status(lab: str, output: str | None) -> None:
    """Nodes, pods, replicas and etcd members, with namespaces, addresses and pids."""
    from kilim.lab import api

    answer = asyncio.run(api.status(lab))
    if output in {"json", "yaml"}:
        print_data(answer, output)
    else:
        click.echo(render(answer))


def render(answer: dict[str, Any]) -> str:
    def servers(title: str, items: list[dict[str, Any]]) -> str:
        rows = [[i["name"], i["namespace"], i["address"], i["loopback_address"], _pid(i["pid"])] for i in items]
        return f"{title}\n" + table(["NAME", "NAMESPACE", "ADDRESS", "ON THIS MACHINE", "PID"], rows)

    nodes = [
        [n["name"], n["namespace"], n["addresses"], n["pod_cidrs"], _pid(n["agent"]["pid"])] for n in answer["nodes"]
    ]
    pods = [
        [f"{p['namespace']}/{p['name']}", p["node"], p["ips"], p["endpoint_id"], p["labels"], _ports(p)]
        for p in answer["pods"]
    ]
    return "\n\n".join(
        [
            "Nodes\n" + table(["NAME", "NAMESPACE", "ADDRESS", "POD CIDRS", "AGENT PID"], nodes),
            "Pods\n" + table(["POD", "NODE", "IP", "ENDPOINT", "LABELS", "PORTS"], pods),
            servers("Replicas", answer["replicas"]),
            servers("etcd", answer["etcd"]),
        ]
    )


def _pid(pid: int | None) -> object:
    return pid or "not running"


def _ports(pod: dict[str, Any]) -> list[str]:
    return [f"{port['port']}/{port['protocol']}" for port in pod["ports"]]


@click.command(cls=LabCommand, example="kilim lab demo")
@named_lab_option
@click.option("--keep", is_flag=True, help="Leave the cluster running.")
def demo(lab: str, keep: bool) -> None:
    """The main job, shown from beginning to end."""
    from kilim.lab.demo import run_demo

    raise SystemExit(asyncio.run(run_demo(lab, keep)))
