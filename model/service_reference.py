"""What rules of cilium.io say of services, before it is known which there are: `toServices`, entity kube-apiserver.

A visitor would get wrong: a reference is no peer. `compile_policy` puts in its place the peers that it comes to, and
does so again when one of the services or slices that it is about changes.

What it comes to, of each service that it is about (`service_index.py`):
1. With a selector: the pods of the service's namespace that have these labels, ready or not.
2. Without one: the addresses in its EndpointSlices as CIDRs, so never pods, and nodes only where the policy's CIDRs
   hold them (`cidrs_include_nodes`).
3. kube-apiserver: the addresses in the EndpointSlices of `default/kubernetes`, in the world or of other nodes; a
   Service object of that name is not needed.
"""

from dataclasses import dataclass

from kilim.model.selector import Selector

API_SERVERS_SERVICE = "default/kubernetes"


@dataclass(frozen=True, slots=True)
class ServicesNamed:
    """In every namespace where none is named, as Cilium reads it."""

    namespace: str
    name: str
    nodes: bool = False  # whether the addresses of a service without a selector may be those of nodes

    def __str__(self) -> str:
        return f"service {self.namespace}/{self.name}" if self.namespace else f"services {self.name} of all namespaces"


@dataclass(frozen=True, slots=True)
class ServicesLabelled:
    namespace: str
    labels: Selector
    nodes: bool = False

    def __str__(self) -> str:
        chosen = f"services with {self.labels}" if self.labels.requirements else "services"
        return f"{chosen} in {self.namespace}" if self.namespace else f"{chosen} of all namespaces"


@dataclass(frozen=True, slots=True)
class ApiServers:
    def __str__(self) -> str:
        return "kube-apiserver"


ServiceReference = ServicesNamed | ServicesLabelled | ApiServers
