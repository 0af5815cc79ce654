"""v1 Service as people apply it: its fields and Kubernetes' rules for them.

A visitor would get wrong: fields that the API server fills in may be left out (type, protocol, cluster IPs, families),
and are judged where they are said. What policies know of one is in `service.py`.
"""

import re
from typing import NamedTuple

from kilim.model.fields import (
    Object,
    child,
    read_boolean,
    read_integer,
    read_list,
    read_object,
    read_text,
    read_text_map,
)
from kilim.model.invalid import Invalid
from kilim.model.names import (
    check_dns_label,
    check_dns_subdomain,
    check_labels,
    check_port_name,
    check_port_number,
    check_qualified_name,
    invalid_value,
)
from kilim.model.service_addresses import HEADLESS, check_addresses
from kilim.model.service_checks import read_protocol, read_word

CLUSTER_IP, NODE_PORT, LOAD_BALANCER, EXTERNAL_NAME = "ClusterIP", "NodePort", "LoadBalancer", "ExternalName"
_TYPES = (CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT)
_FIELDS = (
    *("allocateLoadBalancerNodePorts", "clusterIP", "clusterIPs", "externalIPs", "externalName"),
    *("externalTrafficPolicy", "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy"),
    *("loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges", "ports", "publishNotReadyAddresses"),
    *("selector", "sessionAffinity", "sessionAffinityConfig", "trafficDistribution", "type"),
)
_PORT_FIELDS = ("name", "protocol", "appProtocol", "port", "targetPort", "nodePort")
_OF_LOAD_BALANCERS = ("allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges")
_TRAFFIC = ("Cluster", "Local")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_KUBELET_PORT = 10250
_DAY_S = 86400
_MATCHES_NAME = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?").fullmatch
_NAME_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)


class _Context(NamedTuple):
    type: str
    headless: bool
    several_ports: bool


def check_service_name(text: str, path: str) -> None:
    if len(text) > 63:
        raise invalid_value(path, text, "must be no more than 63 characters")
    if not _MATCHES_NAME(text):
        raise invalid_value(path, text, _NAME_RULE)


def check_service_spec(value: object, path: str = "spec") -> None:
    """Raises `Invalid`."""
    fields = read_object(value, path, _FIELDS)
    kind = read_word(fields.get("type"), child(path, "type"), _TYPES, CLUSTER_IP)
    addresses = check_addresses(fields, path, kind == EXTERNAL_NAME)
    headless = addresses == (HEADLESS,)
    if headless and kind in (LOAD_BALANCER, NODE_PORT):
        rule = f"may not be set to '{HEADLESS}' for {kind} services"
        raise invalid_value(f"{child(path, 'clusterIPs')}[0]", HEADLESS, rule)
    if kind == EXTERNAL_NAME:
        _check_external_name(fields.get("externalName"), child(path, "externalName"))
    else:
        read_text(fields.get("externalName"), child(path, "externalName"))
    _check_ports(fields.get("ports"), child(path, "ports"), kind, headless)
    selector = read_text_map(fields.get("selector"), child(path, "selector"))
    check_labels(selector, child(path, "selector"))
    _check_affinity(fields, path)
    read_boolean(fields.get("publishNotReadyAddresses"), child(path, "publishNotReadyAddresses"))
    _check_load_balancer(fields, path, kind)
    _check_traffic(fields, path, kind)


def _check_external_name(value: object, path: str) -> None:
    name = read_text(value, path).removesuffix(".")
    if not name:
        raise Invalid(path, "Required value")
    check_dns_subdomain(name, path)


def _check_ports(value: object, path: str, kind: str, headless: bool) -> None:
    ports = read_list(value, path)
    if not ports and not headless and kind != EXTERNAL_NAME:
        raise Invalid(path, "Required value")
    context = _Context(kind, headless, len(ports) > 1)
    seen: set[object] = set()
    for number, each in enumerate(ports):
        for place, what in _check_port(each, f"{path}[{number}]", context):
            if (place, what) in seen:
                raise Invalid(f"{path}[{number}]{place}", f"Duplicate value: {what}")
            seen.add((place, what))


def _check_port(value: object, path: str, context: _Context) -> list[tuple[str, str]]:
    """What no other port may have, with the end of its path."""
    fields = read_object(value, path, _PORT_FIELDS)
    name_path, number_path, node_path = (child(path, field) for field in ("name", "port", "nodePort"))
    name = read_text(fields.get("name"), name_path)
    if name:
        check_dns_label(name, name_path)
    elif context.several_ports:
        raise Invalid(name_path, "Required value")
    number = read_integer(fields["port"], number_path) if "port" in fields else 0
    check_port_number(number, number_path)
    protocol = read_protocol(fields.get("protocol"), child(path, "protocol"))
    if "appProtocol" in fields:
        check_qualified_name(read_text(fields["appProtocol"], child(path, "appProtocol")), child(path, "appProtocol"))
    _check_target(fields.get("targetPort"), child(path, "targetPort"))
    if context.type == LOAD_BALANCER and number == _KUBELET_PORT:
        raise invalid_value(number_path, number, "may not expose port 10250 externally since it is used by kubelet")
    node_port = read_integer(fields.get("nodePort", 0), node_path)
    if node_port and context.type == CLUSTER_IP:
        raise Invalid(node_path, "Forbidden: may not be used when `type` is 'ClusterIP'")
    if node_port:
        check_port_number(node_port, node_path)
    found = [("", f"{number}/{protocol}")]
    found += [(".name", f'"{name}"')] if name else []
    return found + ([(".nodePort", f"{node_port}/{protocol}")] if node_port else [])


def _check_target(value: object, path: str) -> None:
    """0 and the empty text: the service's own port."""
    if isinstance(value, str) and value:
        check_port_name(value, path)
    elif value not in (None, ""):
        number = read_integer(value, path)
        if number:
            check_port_number(number, path)


def _check_affinity(fields: Object, path: str) -> None:
    config_path = child(path, "sessionAffinityConfig")
    affinity = read_word(fields.get("sessionAffinity"), child(path, "sessionAffinity"), ("ClientIP", "None"), "None")
    if "sessionAffinityConfig" not in fields:
        return
    if affinity == "None":
        raise Invalid(config_path, f"Forbidden: must not be set when session affinity is {affinity}")
    config = read_object(fields["sessionAffinityConfig"], config_path, ("clientIP",))
    client_path = child(config_path, "clientIP")
    client = read_object(config.get("clientIP"), client_path, ("timeoutSeconds",))
    if "timeoutSeconds" in client:
        timeout_path = child(client_path, "timeoutSeconds")
        if not 0 < read_integer(client["timeoutSeconds"], timeout_path) <= _DAY_S:
            rule = f"must be greater than 0 and less than {_DAY_S}"
            raise invalid_value(timeout_path, client["timeoutSeconds"], rule)


def _check_load_balancer(fields: Object, path: str, kind: str) -> None:
    for field in _OF_LOAD_BALANCERS:
        if kind != LOAD_BALANCER and fields.get(field) not in (None, "", []):
            raise Invalid(child(path, field), "Forbidden: may only be used when `type` is 'LoadBalancer'")
    read_text(fields.get("loadBalancerIP"), child(path, "loadBalancerIP"))
    read_boolean(fields.get("allocateLoadBalancerNodePorts"), child(path, "allocateLoadBalancerNodePorts"))
    class_path = child(path, "loadBalancerClass")
    if "loadBalancerClass" in fields:
        check_qualified_name(read_text(fields["loadBalancerClass"], class_path), class_path)


def _check_traffic(fields: Object, path: str, kind: str) -> None:
    paths = {
        name: child(path, name) for name in ("externalTrafficPolicy", "healthCheckNodePort", "trafficDistribution")
    }
    internal_path = child(path, "internalTrafficPolicy")
    read_word(fields.get("internalTrafficPolicy"), internal_path, _TRAFFIC)
    external = read_text(fields.get("externalTrafficPolicy"), paths["externalTrafficPolicy"])
    if external:
        if kind not in (LOAD_BALANCER, NODE_PORT) and not (kind == CLUSTER_IP and fields.get("externalIPs")):
            rule = "may only be set for externally-accessible services"
            raise invalid_value(paths["externalTrafficPolicy"], external, rule)
        read_word(external, paths["externalTrafficPolicy"], _TRAFFIC)
    check_port = read_integer(fields.get("healthCheckNodePort", 0), paths["healthCheckNodePort"])
    if check_port:
        if kind != LOAD_BALANCER or external != "Local":
            rule = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            raise invalid_value(paths["healthCheckNodePort"], check_port, rule)
        check_port_number(check_port, paths["healthCheckNodePort"])
    distribution = read_word(fields.get("trafficDistribution"), paths["trafficDistribution"], _DISTRIBUTIONS)
    if distribution and kind == EXTERNAL_NAME:
        raise Invalid(paths["trafficDistribution"], "Forbidden: may not be set for ExternalName services")
