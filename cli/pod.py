"""`kilim lab apply|exec|pod`: pods of a lab, connected by the real CNI plugin."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from kilim.cli.failure import BadUsage
from kilim.cli.lab_command import LabCommand, LabGroup, lab_option, pod_key
from kilim.cli.output import output_option, print_data
from kilim.cli.progress import steps


@click.command("apply", cls=LabCommand, example="kilim lab apply -f app.yaml")
@click.option("-f", "--filename", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="What to apply.")
@lab_option
def lab_apply(files: tuple[str, ...], lab: str) -> None:
    """Apply YAML to a lab, start the pods in it, and return when every node enforces it.

    As a kubelet would, it starts each Pod on its spec.nodeName, else on the nodes in turn.
    """
    from kilim.cli.apply import actor, print_results
    from kilim.cli.client import Client
    from kilim.cli.duration import DURATION
    from kilim.cli.manifest import read_documents
    from kilim.cli.wait import wait_for
    from kilim.lab.topology import load_lab
    from kilim.v1 import controlplane_pb2 as pb

    where = load_lab(lab)
    documents = read_documents(files)
    client = Client([replica.loopback for replica in where.replicas])
    manifests = [pb.Manifest(json=document.json, source=document.source) for document in documents]
    response = client.resources("Apply", pb.ApplyRequest(manifests=manifests, actor=actor()))
    print_results(response, None)
    wait_for(client, response.seq, DURATION.convert("10s", None, None))
    with steps("starting pods"):
        for key in asyncio.run(_start(where, [document.body for document in documents])):
            click.echo(f"pod/{key.partition('/')[2]} started")


async def _start(lab: Any, objects: Sequence[dict[str, Any]]) -> list[str]:
    from dataclasses import replace

    from kilim.lab.manifests import pod_from_manifest
    from kilim.lab.pods import running_pods, start_pods

    running = {pod.key for pod in running_pods(lab)}
    wanted = [pod_from_manifest(item) for item in objects if item.get("kind") == "Pod"]
    new = [pod for pod in wanted if pod is not None and pod.key not in running]
    nodes = [lab.nodes[(len(running) + index) % len(lab.nodes)].name for index in range(len(new))]
    placed = [replace(pod, node=pod.node or node) for pod, node in zip(new, nodes, strict=True)]
    return [pod.key for pod in await start_pods(lab, placed)]


@click.command(
    "exec",
    cls=LabCommand,
    example="kilim lab exec shop/frontend -- ip address\nkilim lab exec -n shop api -- python3 -m http.server",
)
@click.option("-n", "--namespace", metavar="NS", help="Namespace of the pod.")
@lab_option
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
@click.pass_context
def exec_(context: click.Context, pod: str, command: tuple[str, ...], namespace: str | None, lab: str) -> None:
    """Run a command in a pod's network namespace; its exit status is this one's."""
    from kilim.lab import api

    context.exit(api.exec_in_pod(lab, pod_key(pod, namespace), command))


@click.group(cls=LabGroup)
def pod() -> None:
    """Add and delete pods."""


@pod.command("add", example="kilim lab pod add shop/web --node node1 --label app=web --port 8080/TCP/http")
@click.argument("pod")
@click.option("-n", "--namespace", metavar="NS", help="Namespace of the pod.")
@click.option("--node", metavar="NODE", help="Its node. [default: the first]")
@click.option("--ip", metavar="IP", help="Its address. [default: the next free one of the node]")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be given often.")
@click.option("-p", "--port", "ports", multiple=True, metavar="PORT[/PROTOCOL[/NAME]]", help="A port it serves.")
@click.option("--service-account", default="default", show_default=True, help="Its service account.")
@lab_option
@output_option("json", "yaml")
def add(
    pod: str, namespace: str | None, node: str | None, ip: str | None, labels: tuple[str, ...],
    ports: tuple[str, ...], service_account: str, lab: str, output: str | None,
) -> None:  # fmt: skip
    """Connect a pod; it serves its ports when this returns."""
    from kilim.lab import api

    pairs = [label.partition("=") for label in labels]
    if any(not key or not sign for key, sign, _ in pairs):
        raise BadUsage("--label: must be KEY=VALUE")
    chosen = {key: value for key, _, value in pairs}
    key = pod_key(pod, namespace)
    answer = asyncio.run(api.add_pod(lab, key, node, ip, chosen, ports, service_account))
    if output:
        print_data(answer, output)
    else:
        click.echo(f"pod {key} is connected: {', '.join(answer['ips'])} on {answer['node']}")


@pod.command("delete", example="kilim lab pod delete shop/web")
@click.argument("pod")
@click.option("-n", "--namespace", metavar="NS", help="Namespace of the pod.")
@lab_option
def delete(pod: str, namespace: str | None, lab: str) -> None:
    """Disconnect a pod and delete its object."""
    from kilim.lab import api

    key = pod_key(pod, namespace)
    asyncio.run(api.remove_pod(lab, key))
    click.echo(f"pod {key} is gone")
