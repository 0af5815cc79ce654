"""Kinds of resources as users type them (kubectl's plurals and short names) and as kubectl prints them."""

from dataclasses import dataclass

from kilim.cli.failure import BadUsage


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    group: str
    namespaced: bool
    words: tuple[str, ...]  # plural first

    @property
    def qualified(self) -> str:
        """What kubectl prints before the slash: `networkpolicy.networking.k8s.io`."""
        return self.name.lower() + (f".{self.group}" if self.group else "")


KINDS = (
    Kind("NetworkPolicy", "networking.k8s.io", True, ("networkpolicies", "networkpolicy", "netpol", "policy")),
    Kind(
        "ClusterNetworkPolicy",
        "policy.networking.k8s.io",
        False,
        ("clusternetworkpolicies", "clusternetworkpolicy", "clusternetpol"),
    ),
    Kind("CiliumNetworkPolicy", "cilium.io", True, ("ciliumnetworkpolicies", "ciliumnetworkpolicy", "cnp", "ciliumnp")),
    Kind(
        "CiliumClusterwideNetworkPolicy",
        "cilium.io",
        False,
        ("ciliumclusterwidenetworkpolicies", "ciliumclusterwidenetworkpolicy", "ccnp"),
    ),
    Kind("CiliumCIDRGroup", "cilium.io", False, ("ciliumcidrgroups", "ciliumcidrgroup", "ccg")),
    Kind("Service", "", True, ("services", "service", "svc")),
    Kind("EndpointSlice", "discovery.k8s.io", True, ("endpointslices", "endpointslice")),
    Kind("Namespace", "", False, ("namespaces", "namespace", "ns")),
    Kind("Pod", "", True, ("pods", "pod", "po")),
    Kind("Node", "", False, ("nodes", "node", "no")),
    Kind("Endpoint", "kilim.io", True, ("endpoints", "endpoint", "ep")),
    Kind("Setting", "kilim.io", False, ("settings", "setting")),
    Kind("Identity", "kilim.io", False, ("identities", "identity", "id")),
)
BY_NAME = {kind.name: kind for kind in KINDS}
BY_WORD = {word: kind for kind in KINDS for word in kind.words}


ALL = "all"


def kinds_of(words: str, everywhere: bool) -> list[Kind]:
    """`netpol,pods`; `all` is every kind that has namespaces, with -A also those that have none, but no settings
    and no identities. Each once."""
    found: dict[str, Kind] = {}
    for word in words.split(","):
        some = [kind for kind in KINDS if _in_all(kind, everywhere)] if word.lower() == ALL else [kind_of(word)]
        found |= {kind.name: kind for kind in some}
    return list(found.values())


def _in_all(kind: Kind, everywhere: bool) -> bool:
    return kind.namespaced or (everywhere and kind.name not in ("Setting", "Identity"))


def kind_of(word: str) -> Kind:
    """Any of the words, in any case, with or without the group: `netpol`, `NetworkPolicy.networking.k8s.io`."""
    kind = BY_WORD.get(word.lower().partition(".")[0])
    if kind is None:
        raise BadUsage(f'unknown kind "{word}": must be one of {", ".join(kind.words[0] for kind in KINDS)}')
    return kind


def reference(kind: str, name: str) -> str:
    """`networkpolicy.networking.k8s.io/db`; a kind that this version does not know is only put in small letters."""
    known = BY_NAME.get(kind)
    return f"{known.qualified if known else kind.lower()}/{name}"


def namespace_of(kind: Kind, namespace: str | None, everywhere: bool) -> str:
    """The namespace to ask for; empty means all."""
    if not kind.namespaced or everywhere:
        return ""
    return namespace or "default"
