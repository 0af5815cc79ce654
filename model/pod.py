"""The part of a v1 Pod's spec that matters to networking: service account and the named ports of its containers.

A visitor would get wrong: an init container that is restarted always (a sidecar) offers its ports, the other init
containers do not; and one name may stand for different numbers in different containers.
"""

from typing import NamedTuple

from kilim.model.fields import Object, child, read_any_object, read_integer, read_list, read_object, read_text
from kilim.model.invalid import Invalid
from kilim.model.names import check_dns_subdomain, check_port_name, check_port_number, unsupported_value
from kilim.model.nouns import NamedPort, Pod
from kilim.model.protocols import PROTOCOL_NAMES, PROTOCOLS


class PodSpec(NamedTuple):
    service_account: str
    named_ports: tuple[NamedPort, ...]


def parse_pod_spec(value: object, path: str) -> PodSpec:
    """Raises `Invalid`. Containers are optional here, as a Pod object may serve to carry labels alone."""
    fields = read_any_object(value, path)
    account_path = child(path, "serviceAccountName")
    account = read_text(fields.get("serviceAccountName"), account_path)
    if account:
        check_dns_subdomain(account, account_path)
    ports: set[NamedPort] = set()
    for field in ("initContainers", "containers"):
        containers_path = child(path, field)
        for number, each in enumerate(read_list(fields.get(field), containers_path)):
            container_path = f"{containers_path}[{number}]"
            container = read_any_object(each, container_path)
            found = _parse_ports(container.get("ports"), child(container_path, "ports"))
            if field == "containers" or container.get("restartPolicy") == "Always":
                ports |= found
    return PodSpec(account, tuple(sorted(ports)))


def _parse_ports(value: object, path: str) -> set[NamedPort]:
    ports: set[NamedPort] = set()
    for number, each in enumerate(read_list(value, path)):
        port = _parse_port(each, f"{path}[{number}]")
        if port.name:
            if any(port.name == other.name for other in ports):
                raise Invalid(f"{path}[{number}].name", f'Duplicate value: "{port.name}"')
            ports.add(port)
    return ports


def _parse_port(value: object, path: str) -> NamedPort:
    fields = read_object(value, path, ("name", "containerPort", "protocol", "hostPort", "hostIP"))
    name_path, port_path, protocol_path = (child(path, name) for name in ("name", "containerPort", "protocol"))
    name = read_text(fields.get("name"), name_path)
    if name:
        check_port_name(name, name_path)
    if "containerPort" not in fields:
        raise Invalid(port_path, "Required value")
    number = read_integer(fields["containerPort"], port_path)
    check_port_number(number, port_path)
    protocol = read_text(fields["protocol"], protocol_path) if "protocol" in fields else "TCP"
    if protocol not in PROTOCOLS:
        raise unsupported_value(protocol_path, protocol, tuple(PROTOCOLS))
    return NamedPort(name, number, PROTOCOLS[protocol])


def pod_spec_of(pod: Pod) -> Object:
    """A spec that `parse_pod_spec` reads back. Ports of the same name need containers of their own."""
    containers: list[list[NamedPort]] = []
    for port in pod.named_ports:
        free = next((ports for ports in containers if all(port.name != other.name for other in ports)), None)
        if free is None:
            containers.append(free := [])
        free.append(port)
    spec: Object = {}
    if pod.service_account:
        spec["serviceAccountName"] = pod.service_account
    if containers:
        spec["containers"] = [{"ports": [_port_of(port) for port in ports]} for ports in containers]
    return spec


def _port_of(port: NamedPort) -> Object:
    protocol = PROTOCOL_NAMES.get(port.protocol, str(port.protocol))
    return {"name": port.name, "containerPort": port.port, "protocol": protocol}
