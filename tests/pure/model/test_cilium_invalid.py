"""Broken cilium.io manifests: each is refused with the path of the field and the rule; so is what is not enforced."""

from typing import Any

import pytest

from kilim.model.invalid import Invalid
from kilim.model.nouns import Policy
from kilim.model.resource import parse_manifest
from tests.pure.model.test_cilium_policy import policy

OK: dict[str, Any] = {"endpointSelector": {}, "ingress": [{}]}
PORT = {"port": "80", "protocol": "TCP"}


def ingress(**rule: Any) -> dict[str, Any]:
    return policy(spec={"endpointSelector": {}, "ingress": [rule]})


def egress(**rule: Any) -> dict[str, Any]:
    return policy(spec={"endpointSelector": {}, "egress": [rule]})


def port(**fields: Any) -> dict[str, Any]:
    return ingress(toPorts=[{"ports": [fields]}])


def entry(**fields: Any) -> dict[str, Any]:
    return egress(toPorts=[{"ports": [PORT]} | fields])


def group(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g"}, **fields}


def clusterwide(**spec: Any) -> dict[str, Any]:
    return policy("CiliumClusterwideNetworkPolicy", spec=spec)


I0, E0 = "spec.ingress[0]", "spec.egress[0]"
P0, T0 = f"{I0}.toPorts[0].ports[0]", f"{E0}.toPorts[0]"
EXP, TYPE = f"{I0}.fromEndpoints[0].matchExpressions[0]", f"{I0}.icmps[0].fields[0]"
FROM, SET = f"{I0}.fromEndpoints[0]", f"{I0}.fromCIDRSet[0]"


def expressions(*items: Any) -> dict[str, Any]:
    return ingress(fromEndpoints=[{"matchExpressions": list(items)}])


@pytest.mark.parametrize(
    ("manifest", "path", "rule"),
    [
        # the object and its specs
        (policy(), "spec", "must have `spec` or `specs`"),
        (policy(spec=None, specs=[]), "spec", "must have `spec` or `specs`"),
        (policy(spec=[]), "spec", "must be an object, not a list"),
        (policy(specs=OK), "specs", "must be a list, not an object"),
        (policy(specs=[OK, {}]), "specs[1]", "must have one of `endpointSelector` and `nodeSelector`"),
        (policy(spec=OK, rules=[]), "rules", 'unknown field "rules"'),
        (policy(spec=OK | {"policyTypes": []}), "spec.policyTypes", 'unknown field "policyTypes"'),
        (policy(spec=OK | {"nodeSelector": {}}), "spec", "must have one of"),
        (policy(spec={"ingress": [{}]}), "spec", "must have one of"),
        (policy(spec={"endpointSelector": {}}), "spec", "must have at least one of ingress, ingressDeny"),
        (policy(spec={"endpointSelector": {}, "ingress": None}), "spec", "must have at least one of"),
        (policy(spec=OK | {"ingress": {}}), "spec.ingress", "must be a list"),
        (policy(spec=OK | {"ingress": ["x"]}), I0, "must be an object, not a string"),
        (policy(spec=OK | {"description": 7}), "spec.description", "must be a string, not a number"),
        (policy(spec=OK | {"labels": {}}), "spec.labels", "must be a list"),
        (policy(spec=OK | {"labels": [{"value": "x"}]}), "spec.labels[0].key", "Required value"),
        (policy(spec=OK | {"labels": [{"key": "a", "id": "b"}]}), "spec.labels[0].id", 'unknown field "id"'),
        (policy(spec=OK | {"log": {"value": "x" * 33}}), "spec.log.value", "no more than 32 printable"),
        (policy(spec=OK | {"log": {"value": "a\nb"}}), "spec.log.value", "no more than 32 printable"),
        (policy(spec=OK | {"log": "x"}), "spec.log", "must be an object"),
        (policy(spec=OK | {"enableDefaultDeny": True}), "spec.enableDefaultDeny", "must be an object, not a boolean"),
        (policy(spec=OK | {"enableDefaultDeny": {"ingress": "no"}}), "spec.enableDefaultDeny.ingress", "true or false"),
        (policy(spec=OK | {"enableDefaultDeny": {"both": True}}), "spec.enableDefaultDeny.both", "unknown field"),
        (policy(spec=OK | {"endpointSelector": []}), "spec.endpointSelector", "must be an object"),
        (policy(spec=OK | {"endpointSelector": {"app": "x"}}), "spec.endpointSelector.app", "unknown field"),
        (policy(spec={"nodeSelector": {}, "ingress": []}),
         "spec.nodeSelector", "only a CiliumClusterwideNetworkPolicy"),
        (policy("CiliumClusterwideNetworkPolicy", spec=OK) | {"metadata": {"name": "p", "namespace": "a"}},
         "metadata.namespace", "not allowed on this type"),
        (policy(spec=OK) | {"apiVersion": "cilium.io/v2alpha1"}, "apiVersion", "it must be cilium.io/v2"),
        (policy(spec=OK) | {"metadata": {"name": "P"}}, "metadata.name", "RFC 1123 subdomain"),
        # rules
        (ingress(toEndpoints=[]), f"{I0}.toEndpoints", 'unknown field "toEndpoints"'),
        (egress(fromEndpoints=[]), f"{E0}.fromEndpoints", "unknown field"),
        (ingress(fromServices=[]), f"{I0}.fromServices", "unknown field"),
        (ingress(**{"from": []}), f"{I0}.from", "unknown field"),
        (policy(spec=OK | {"ingressDeny": [{"authentication": {}}]}), "spec.ingressDeny[0].authentication", ""),
        (policy(spec=OK | {"egressDeny": [{"toFQDNs": []}]}), "spec.egressDeny[0].toFQDNs", "unknown field"),
        (policy(spec=OK | {"egressDeny": [{"toPorts": [{"rules": {}}]}]}), "spec.egressDeny[0].toPorts[0].rules", ""),
        (ingress(fromEndpoints=[{}], fromEntities=["world"]), f"{I0}.fromEntities", "`fromEndpoints`"),
        (egress(toCIDR=["1.1.1.1"], toCIDRSet=[{"cidr": "1.1.1.1/32"}]), f"{E0}.toCIDRSet", "may not be combined"),
        (egress(toEndpoints=[{}], toFQDNs=[{"matchName": "a"}]), f"{E0}.toFQDNs", "may not be combined"),
        (ingress(toPorts=[{}], icmps=[{}]), f"{I0}.icmps", "may not be combined with `toPorts`"),
        # selectors
        (ingress(fromEndpoints={}), f"{I0}.fromEndpoints", "must be a list"),
        (ingress(fromEndpoints=["x"]), FROM, "must be an object"),
        (ingress(fromEndpoints=[{"matchLabel": {}}]), f"{FROM}.matchLabel", "unknown field"),
        (ingress(fromEndpoints=[{"matchLabels": {"a": 1}}]), f"{FROM}.matchLabels.a", "must be a string"),
        (ingress(fromEndpoints=[{"matchLabels": {"a b": "c"}}]), f"{FROM}.matchLabels", "must consist of alphanumeric"),
        (ingress(fromEndpoints=[{"matchLabels": {"k8s:": "c"}}]), f"{FROM}.matchLabels", "name part must be non-empty"),
        (ingress(fromEndpoints=[{"matchLabels": {":a": "c"}}]), f"{FROM}.matchLabels", "a source of labels"),
        (ingress(fromEndpoints=[{"matchLabels": {"K8S:a": "c"}}]), f"{FROM}.matchLabels", "a source of labels"),
        (ingress(fromEndpoints=[{"matchLabels": {"a:b:c": "c"}}]), f"{FROM}.matchLabels", "must consist of"),
        (ingress(fromEndpoints=[{"matchLabels": {"a": "b c"}}]), f"{FROM}.matchLabels", "a valid label must be"),
        (ingress(fromEndpoints=[{"matchLabels": {"a": "b" * 64}}]), f"{FROM}.matchLabels", "no more than 63"),
        (ingress(fromEndpoints=[{"matchLabels": {"reserved:hosts": ""}}]), f"{FROM}.matchLabels", "reserved:host"),
        (expressions({"key": "a", "operator": "Equals", "values": ["b"]}), f"{EXP}.operator", "not a valid"),
        (expressions({"key": "a", "operator": "In"}), f"{EXP}.values", "Required value"),
        (expressions({"key": "a", "operator": "Exists", "values": ["b"]}), f"{EXP}.values", "Forbidden"),
        (expressions({"operator": "Exists"}), f"{EXP}.key", "must be non-empty"),
        # entities and CIDRs
        (ingress(fromEntities=["World"]), f"{I0}.fromEntities[0]", 'Unsupported value: "World"'),
        (ingress(fromEntities=["all", "internet"]), f"{I0}.fromEntities[1]", "supported values"),
        (ingress(fromEntities="all"), f"{I0}.fromEntities", "must be a list"),
        (ingress(fromCIDR=[""]), f"{I0}.fromCIDR[0]", "Required value"),
        (ingress(fromCIDR=["10.0.0.0/33"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=["10.0.0/8"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=["10.0.0.0/08"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=["10.0.0.0/255.0.0.0"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=["fe80::1%eth0/64"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=["2001:db8::/129"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=["example.com"]), f"{I0}.fromCIDR[0]", "must be a valid CIDR"),
        (ingress(fromCIDR=[{"cidr": "10.0.0.0/8"}]), f"{I0}.fromCIDR[0]", "must be a string"),
        (ingress(fromCIDRSet=["10.0.0.0/8"]), SET, "must be an object"),
        (ingress(fromCIDRSet=[{}]), SET, "must have one of `cidr`"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]), SET, "must have one of"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.1"}]), f"{SET}.cidr", "must be a valid CIDR"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}]), f"{SET}.except", "must be a list"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]),
         f"{SET}.except[0]", "must be within"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}]), f"{SET}.except[0]", "must be within"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["2001:db8::/64"]}]), f"{SET}.except[0]", "same family"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["10.1.1.1"]}]), f"{SET}.except[0]", "valid CIDR"),
        (ingress(fromCIDRSet=[{"cidr": "10.0.0.0/8", "excepts": []}]), f"{SET}.excepts", "unknown field"),
        (ingress(fromCIDRSet=[{"cidrGroupRef": "A"}]), f"{SET}.cidrGroupRef", "RFC 1123 subdomain"),
        (ingress(fromCIDRSet=[{"cidrGroupSelector": {"a": "b"}}]), f"{SET}.cidrGroupSelector.a", "unknown field"),
        (group(), "spec.externalCIDRs", "Required value"),
        (group(spec={"externalCIDRs": ["10.0.0.1"]}), "spec.externalCIDRs[0]", "must be a valid CIDR"),
        (group(spec={"externalCIDRs": [], "cidrs": []}), "spec.cidrs", "unknown field"),
        (group(specs=[]), "specs", "unknown field"),
        (group(spec={"externalCIDRs": []}) | {"apiVersion": "cilium.io/v1"}, "apiVersion", "or cilium.io/v2alpha1"),
        # ports and types
        (port(), f"{P0}.port", "Required value"),
        (port(port=80), f"{P0}.port", "must be a string, not a number"),
        (port(port="65536"), f"{P0}.port", "between 0 and 65535"),
        (port(port="99999999999"), f"{P0}.port", "between 0 and 65535"),
        (port(port="-1"), f"{P0}.port", "must be a number from 0 to 65535, or a name"),
        (port(port="a-name-too-long-for-a-port"), f"{P0}.port", "at most 15 letters"),
        (port(port="a--b"), f"{P0}.port", "single hyphens"),
        (port(port="-a"), f"{P0}.port", "single hyphens"),
        (port(port="80", protocol="tcp"), f"{P0}.protocol", 'Unsupported value: "tcp"'),
        (port(port="0", protocol="VRRP"), f"{P0}.protocol", "not supported"),
        (port(port="80", endPort=79), f"{P0}.endPort", "greater than or equal to `port`"),
        (port(port="80", endPort=65536), f"{P0}.endPort", "between 0 and 65535"),
        (port(port="80", endPort="90"), f"{P0}.endPort", "must be an integer"),
        (port(port="80", endPort=True), f"{P0}.endPort", "must be an integer"),
        (port(port="http", endPort=65536), f"{P0}.endPort", "must be between 0 and 65535"),
        (port(port="0", endPort=90), f"{P0}.endPort", "when `port` is 0"),
        (port(port="80", targetPort="81"), f"{P0}.targetPort", "unknown field"),
        (ingress(toPorts=[{"ports": [PORT] * 41}]), f"{I0}.toPorts[0].ports", "must have at most 40 items"),
        (ingress(toPorts=[PORT]), f"{I0}.toPorts[0].port", "unknown field"),
        (ingress(icmps=[{"fields": [{"type": 8}] * 41}]), f"{I0}.icmps[0].fields", "must have at most 40 items"),
        (ingress(icmps=[{"fields": [{}]}]), f"{TYPE}.type", "Required value"),
        (ingress(icmps=[{"fields": [{"type": 256}]}]), f"{TYPE}.type", "between 0 and 255"),
        (ingress(icmps=[{"fields": [{"type": "999"}]}]), f"{TYPE}.type", "between 0 and 255"),
        (ingress(icmps=[{"fields": [{"type": True}]}]), f"{TYPE}.type", "must be an integer"),
        (ingress(icmps=[{"fields": [{"type": "Ping"}]}]), f"{TYPE}.type", "Unsupported value"),
        (ingress(icmps=[{"fields": [{"type": "PacketTooBig"}]}]), f"{TYPE}.type", "Unsupported value"),
        (ingress(icmps=[{"fields": [{"type": 8, "family": "ipv4"}]}]), f"{TYPE}.family", "IPv6"),
        (ingress(icmps=[{"types": []}]), f"{I0}.icmps[0].types", "unknown field"),
        # layer 7 that is wrong by itself
        (entry(rules={"http": [{"path": "("}]}), f"{T0}.rules.http[0].path", "must be a regular expression"),
        (entry(rules={"http": [{"url": "x"}]}), f"{T0}.rules.http[0].url", "unknown field"),
        (entry(rules={"http": [{"headers": [""]}]}), f"{T0}.rules.http[0].headers[0]", "must be a header"),
        (entry(rules={"http": [{"headerMatches": [{}]}]}), f"{T0}.rules.http[0].headerMatches[0].name", "Required"),
        (entry(rules={"http": [{"headerMatches": [{"name": "x", "mismatch": "DROP"}]}]}),
         f"{T0}.rules.http[0].headerMatches[0].mismatch", "Unsupported value"),
        (entry(rules={"http": [{"headerMatches": [{"name": "x", "secret": {}}]}]}),
         f"{T0}.rules.http[0].headerMatches[0].secret.name", "Required value"),
        (entry(rules={"http": [{}], "dns": [{"matchName": "a"}]}), f"{T0}.rules", "may not combine http and dns"),
        (entry(rules={"kafka": [{"role": "read"}]}), f"{T0}.rules.kafka[0].role", "Unsupported value"),
        (entry(rules={"kafka": [{"role": "produce", "apiKey": "fetch"}]}), f"{T0}.rules.kafka[0]", "may not combine"),
        (entry(rules={"l7": [{"a": "b"}]}), f"{T0}.rules.l7", "without `l7proto`"),
        (entry(rules={"grpc": []}), f"{T0}.rules.grpc", "unknown field"),
        (entry(rules={"dns": [{}]}), f"{T0}.rules.dns[0]", "must have one of `matchName` and `matchPattern`"),
        (entry(rules={"dns": [{"matchName": "a", "matchPattern": "*"}]}), f"{T0}.rules.dns[0]", "must have one of"),
        (entry(rules={"dns": [{"matchName": "*.a"}]}), f"{T0}.rules.dns[0].matchName", "must be a DNS name"),
        (entry(rules={"dns": [{"matchName": "a..b"}]}), f"{T0}.rules.dns[0].matchName", "must be a DNS name"),
        (entry(rules={"dns": [{"matchPattern": "a" * 256}]}), f"{T0}.rules.dns[0].matchPattern", "no more than 255"),
        (entry(ports=[], rules={"dns": [{"matchName": "a"}]}), f"{T0}.rules.dns", "needs a port"),
        (entry(ports=[{"port": "53", "endPort": 54}], rules={"dns": []}), f"{T0}.rules.dns", "a range of ports"),
        (entry(ports=[{"port": "0", "protocol": "TCP"}], rules={"http": []}), f"{T0}.rules.http", "port 0"),
        (entry(ports=[{"port": "80"}], rules={"http": []}), f"{T0}.rules.http", "protocol TCP, not ANY"),
        (ingress(toPorts=[{"ports": [PORT], "rules": {"dns": []}}]), f"{I0}.toPorts[0].rules.dns", "on ingress"),
        (ingress(toPorts=[{"ports": [PORT], "listener": {}}]), f"{I0}.toPorts[0].listener", "on ingress"),
        (entry(serverNames=[""]), f"{T0}.serverNames[0]", "Required value"),
        (entry(serverNames=["a"], rules={"http": []}), f"{T0}.serverNames", "without `terminatingTLS`"),
        (entry(terminatingTLS={}), f"{T0}.terminatingTLS.secret", "Required value"),
        (entry(originatingTLS={"secret": {}}), f"{T0}.originatingTLS.secret.name", "Required value"),
        (entry(listener={}), f"{T0}.listener.name", "Required value"),
        (entry(listener={"name": "l", "envoyConfig": {"name": "c", "kind": "E"}}),
         f"{T0}.listener.envoyConfig.kind", ""),
        (entry(listener={"name": "l", "envoyConfig": {"name": "c"}, "priority": 0}), f"{T0}.listener.priority", ""),
        (egress(toFQDNs=["example.com"]), f"{E0}.toFQDNs[0]", "must be an object"),
        (ingress(authentication={"mode": "always"}), f"{I0}.authentication.mode", "Unsupported value"),
        (egress(toServices=[{}]), f"{E0}.toServices[0]", "must have one of `k8sService`"),
        (egress(toServices=[{"k8sService": {}}]), f"{E0}.toServices[0].k8sService.serviceName", "RFC 1123 label"),
        (egress(toServices=[{"k8sServiceSelector": {}}]),
         f"{E0}.toServices[0].k8sServiceSelector.selector", "Required"),
        (egress(toGroups=[{"gcp": {}}]), f"{E0}.toGroups[0].gcp", "unknown field"),
        # right, but not enforced: said with the path, and last
        (entry(rules={"http": [{"method": "GET", "path": "/.*"}]}), f"{T0}.rules.http", "not yet enforced"),
        (entry(rules={"kafka": [{"topic": "t"}]}), f"{T0}.rules.kafka", "not yet enforced"),
        (entry(rules={"l7proto": "x", "l7": [{"a": "b"}]}), f"{T0}.rules.l7proto", "not yet enforced"),
        (entry(ports=[{"port": "53"}], rules={"dns": [{"matchPattern": "*"}]}), f"{T0}.rules.dns", "not yet enforced"),
        (entry(serverNames=["a.example"]), f"{T0}.serverNames", "not yet enforced"),
        (entry(terminatingTLS={"secret": {"name": "s"}}), f"{T0}.terminatingTLS", "not yet enforced"),
        (entry(originatingTLS={"secret": {"name": "s"}}), f"{T0}.originatingTLS", "not yet enforced"),
        (entry(listener={"name": "l", "envoyConfig": {"name": "c"}}), f"{T0}.listener", "not yet enforced"),
        (egress(toFQDNs=[{"matchPattern": "*.example.com"}]), f"{E0}.toFQDNs", "not yet enforced"),
        (egress(toServices=[{"k8sService": {"serviceName": "s"}}], toEntities=["world"]),
         f"{E0}.toServices", "may not be combined with `toEntities`"),
        (egress(toServices=[{"k8sServiceSelector": {"selector": {}, "namespace": "a b"}}]),
         f"{E0}.toServices[0].k8sServiceSelector.namespace", "RFC 1123 label"),
        (ingress(authentication={"mode": "required"}), f"{I0}.authentication", "not yet enforced"),
        (clusterwide(nodeSelector={}, ingress=[]), "spec.nodeSelector", "not yet enforced"),
        (ingress(fromRequires=[{}]), f"{I0}.fromRequires", "not supported"),
        (egress(toRequires=[{}]), f"{E0}.toRequires", "not supported"),
        (ingress(fromGroups=[{"aws": {"region": "x"}}]), f"{I0}.fromGroups", "not supported"),
        (egress(toGroups=[{}]), f"{E0}.toGroups", "not supported"),
        (policy(spec={"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "a"}]}, {"x": 1}]}),
         "spec.egress[1].x", "unknown field"),
    ],
)  # fmt: skip
def test_refused(manifest: dict[str, Any], path: str, rule: str) -> None:
    with pytest.raises(Invalid) as error:
        parse_manifest(manifest)
    assert (error.value.path, "\n" in str(error.value)) == (path, False)
    assert rule in error.value.rule


def test_kept_as_it_was_applied() -> None:
    spec = OK | {"description": "d", "labels": [{"key": "a", "value": "b", "source": "k8s"}], "log": {"value": "x"}}
    noun = parse_manifest(policy(specs=[spec, OK], status={"x": 1})).noun
    text = '{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"p","namespace":"a"},"specs":['
    assert isinstance(noun, Policy) and noun.manifest_json.startswith(text)
    old = parse_manifest(group(apiVersion="cilium.io/v2alpha1", spec={"externalCIDRs": ["2001:db8::/32"]})).noun
    assert isinstance(old, Policy) and '"externalCIDRs":["2001:db8::/32"]' in old.manifest_json
