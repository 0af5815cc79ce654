"""The entry point: what commands there are, and where each one's room is. Imports nothing heavy."""

import click

from kilim.cli.command import LazyGroup

SECTIONS = {
    "Resources": {
        "apply": ("kilim.cli.apply:apply", "Create or change resources from YAML"),
        "delete": ("kilim.cli.delete:delete", "Delete resources by file or by name"),
        "get": ("kilim.cli.get:get", "List resources, or show one"),
        "describe": ("kilim.cli.describe:describe", "Show one resource in words"),
    },
    "Cluster": {
        "status": ("kilim.cli.status:status", "Is everything well: replicas, etcd, nodes, digests"),
        "verify": ("kilim.cli.verify:verify", "Whether the kernels hold what the log says, entry by entry"),
        "log": ("kilim.cli.log:log", "The event log"),
        "replay": ("kilim.cli.replay:replay", "The tables of a node as of any event"),
        "why": ("kilim.cli.why:why", "Why a connection is allowed or denied, and since which event"),
        "simulate": ("kilim.cli.simulate:simulate", "Whose verdict would change if manifests were applied"),
        "endpoint": ("kilim.cli.endpoint:endpoint", "Endpoints: the pods that Kilim connects"),
        "identity": ("kilim.cli.listing:identity", "Identities: numbers for sets of labels"),
        "policy": ("kilim.cli.policy:policy", "Policies: what they select, make, and say of a pair"),
        "setting": ("kilim.cli.setting:setting", "Settings of the cluster"),
        "node": ("kilim.cli.listing:node", "Nodes and what they enforce"),
    },
    "Node": {
        "bpf": ("kilim.cli.bpf:bpf", "The BPF tables of one node"),
        "health": ("kilim.cli.health:health", "Whom one node reaches, and how fast"),
        "monitor": ("kilim.cli.monitor:monitor", "What one node dropped or audited, and by whose word"),
    },
    "Lab": {
        "lab": ("kilim.cli.lab:lab", "A real cluster on this machine"),
    },
    "Processes": {
        "controlplane": ("kilim.cli.process:controlplane", "Run one replica of the control plane"),
        "agent": ("kilim.cli.agent:agent", "Run the agent of a node"),
        "cni": ("kilim.cli.process:cni", "The CNI plugin, as kubelet calls it"),
    },
    "Other": {
        "version": ("kilim.cli.version:version", "Print the version"),
        "completion": ("kilim.cli.completion:completion", "Print the completion script of a shell"),
    },
}


@click.version_option(package_name="kilim", message="kilim %(version)s")
@click.group("kilim", cls=LazyGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """eBPF networking whose whole state is an event log."""


if __name__ == "__main__":
    main()
