"""Settings of the cluster that are numbers or words: name, what holds where none is set, and what may be. In the log.

Easy to get wrong: readers never fail (I1). A value that breaks its rule was refused when it was decided; one that an
older or newer version let through counts as not set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kilim.model.identity import FIRST_CLUSTER_LOCAL, LAST_CLUSTER_LOCAL
from kilim.model.state import State, setting_key


@dataclass(frozen=True, slots=True)
class NumberSetting:
    """A whole number from `least` to `most`; `unit` is for people."""

    name: str
    default: int
    least: int
    most: int
    unit: str

    def parse(self, text: str) -> int:
        """Raises ValueError with the rule."""
        if text.isascii() and text.isdigit() and len(text) <= 18 and self.least <= int(text) <= self.most:
            return int(text)
        raise ValueError(f"must be a number of {self.unit} from {self.least} to {self.most}")

    def read(self, state: State) -> int:
        setting = state.settings.get(self.name)
        try:
            return self.parse(setting.value) if setting is not None and setting.value else self.default
        except ValueError:
            return self.default


@dataclass(frozen=True, slots=True)
class WordSetting:
    """One of several words; the first is what holds where none is set."""

    name: str
    words: tuple[str, ...]
    per_node: bool = False  # a node may have its own, which comes before the cluster's

    def parse(self, text: str) -> str:
        """Raises ValueError with the rule."""
        if text in self.words:
            return text
        raise ValueError(f"must be one of {', '.join(self.words)}")

    def read(self, state: State, node: str = "") -> str:
        for key in dict.fromkeys((setting_key(self.name, node), self.name)):
            setting = state.settings.get(key)
            if setting is not None and setting.value in self.words:
                return setting.value
        return self.words[0]


# What CIDRs select beside what is outside the cluster. `pods`: those of networking.k8s.io and policy.networking.k8s.io
# also pods and nodes; `nodes`, Cilium's word: beside that, those of cilium.io also nodes; `none`: none do.
PODS, NONE, NODES = "pods", "none", "nodes"
POLICY_CIDR_MATCH_MODE = WordSetting("policy-cidr-match-mode", (PODS, NONE, NODES))

# Whether all labels of a node count for its identity, as in Cilium; else those that policies ask for.
FALSE, TRUE = "false", "true"
NODE_SELECTOR_LABELS = WordSetting("enable-node-selector-labels", (FALSE, TRUE))

# Which endpoints are isolated, in Cilium's words: those that a policy selects, in the directions that it speaks of; all
# of them in both; none, whatever policy says.
DEFAULT, ALWAYS, NEVER = "default", "always", "never"
ENABLE_POLICY = WordSetting("enable-policy", (DEFAULT, ALWAYS, NEVER))

# Whether a node reaches its own pods where policy isolates their ingress: as Kubernetes has it (auto, always), or as
# policy says (entity `host`). A deny holds in any case. Cilium's words; what its auto looks for we do not depend on.
ALLOW_LOCALHOST = WordSetting("allow-localhost", ("auto", "always", "policy"))


def allows_localhost(state: State) -> bool:
    return ALLOW_LOCALHOST.read(state) != "policy"


# Whether what policy refuses is forwarded and recorded all the same. An endpoint may be in audit mode of its own.
POLICY_AUDIT_MODE = WordSetting("policy-audit-mode", ("false", "true"), per_node=True)


def audits(state: State, node: str) -> bool:
    """Whether all endpoints of a node are in audit mode."""
    return POLICY_AUDIT_MODE.read(state, node) == "true"


class AuditModes(NamedTuple):
    """The same for all nodes; those that have none of their own are as the cluster is."""

    cluster: bool
    nodes: Mapping[str, bool]

    def of(self, node: str) -> bool:
        return self.nodes.get(node, self.cluster)


def audit_modes(state: State) -> AuditModes:
    own = (key.partition("/") for key in state.settings)
    nodes = [node for name, _, node in own if name == POLICY_AUDIT_MODE.name and node]
    return AuditModes(audits(state, ""), {node: audits(state, node) for node in nodes})


SNAPSHOT_EVERY_EVENTS = NumberSetting("snapshot-every-events", 20_000, 10, 10_000_000, "events")
SNAPSHOT_RETENTION_COUNT = NumberSetting("snapshot-retention-count", 3, 2, 100, "snapshots")
LOG_RETENTION_EVENTS = NumberSetting("log-retention-events", 200_000, 10, 100_000_000, "events")
LOG_RETENTION_AGE_H = NumberSetting("log-retention-age-h", 168, 1, 87_600, "hours")
READ_BACK_INTERVAL_S = NumberSetting("read-back-interval-s", 30, 1, 86_400, "seconds")
# How long an identity without endpoints is kept, so that a restarted pod finds its number again.
IDENTITY_RELEASE_GRACE_S = NumberSetting("identity-release-grace-s", 900, 0, 86_400, "seconds")

# Up to which number identities of pods have been given; the control plane's own note, which nobody else sets.
LAST_IDENTITY = NumberSetting(
    "last-allocated-identity",
    FIRST_CLUSTER_LOCAL - 1,
    FIRST_CLUSTER_LOCAL,
    LAST_CLUSTER_LOCAL,
    "an identity",
)

# Where pod CIDRs of nodes that bring none come from, and how long they are; each replica brings the default.
CLUSTER_POOL_IPV4_CIDR = "cluster-pool-ipv4-cidr"
CLUSTER_POOL_IPV4_MASK_SIZE = "cluster-pool-ipv4-mask-size"
CLUSTER_POOL_IPV6_CIDR = "cluster-pool-ipv6-cidr"
CLUSTER_POOL_IPV6_MASK_SIZE = "cluster-pool-ipv6-mask-size"

NUMBER_SETTINGS = {
    setting.name: setting
    for setting in (
        SNAPSHOT_EVERY_EVENTS,
        SNAPSHOT_RETENTION_COUNT,
        LOG_RETENTION_EVENTS,
        LOG_RETENTION_AGE_H,
        READ_BACK_INTERVAL_S,
        IDENTITY_RELEASE_GRACE_S,
    )
}
WORD_SETTINGS = {
    setting.name: setting
    for setting in (POLICY_CIDR_MATCH_MODE, ENABLE_POLICY, ALLOW_LOCALHOST, POLICY_AUDIT_MODE, NODE_SELECTOR_LABELS)
}
OF_TABLES = frozenset((ENABLE_POLICY.name, ALLOW_LOCALHOST.name, POLICY_AUDIT_MODE.name))  # those that rows depend on
