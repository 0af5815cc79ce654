"""The result object of ADD in the form of each CNI version, and what CHECK compares of it. PURE."""

from typing import Any

from kilim.agent.cni import spec
from kilim.agent.cni.requests import Json, PodRequest
from kilim.agent.cni.spec import CniError
from kilim.agent.core.gateway import DEFAULT_ROUTES, gateway_of, host_cidr
from kilim.agent.core.link import PodLink
from kilim.model.address import is_ipv6
from kilim.model.mac import node_mac, pod_mac


def make_result(request: PodRequest, link: PodLink) -> Json:
    """The interfaces of a plugin before us in the chain (prevResult) come first."""
    before = request.prev_result or {}
    interfaces: list[Json] = list(before.get("interfaces") or [])
    ours: list[Json] = [
        {"name": link.name, "mac": node_mac(link.endpoint_id).hex(":")},
        {"name": link.ifname, "mac": pod_mac(link.endpoint_id).hex(":"), "sandbox": link.netns},
    ]
    if request.version == "1.1.0":
        ours = [{**each, "mtu": link.mtu} for each in ours]
    inside = len(interfaces) + 1
    return {
        "cniVersion": request.version,
        "interfaces": interfaces + ours,
        "ips": [*(before.get("ips") or []), *(_address(request, ip, inside) for ip in link.ips)],
        "routes": [*(before.get("routes") or []), *(_default_route(request, link, ip) for ip in link.ips)],
        "dns": before.get("dns") or {},
    }


def _address(request: PodRequest, ip: int, interface: int) -> Json:
    address: Json = {"address": host_cidr(ip), "gateway": gateway_of(ip), "interface": interface}
    if not request.version.startswith("1."):
        address["version"] = "6" if is_ipv6(ip) else "4"
    return address


def _default_route(request: PodRequest, link: PodLink, ip: int) -> Json:
    route: Json = {"dst": DEFAULT_ROUTES[is_ipv6(ip)], "gw": gateway_of(ip)}
    if request.version == "1.1.0":
        route["mtu"] = link.route_mtu
    return route


def check_prev_result(request: PodRequest, link: PodLink) -> None:
    """Raises CniError where the result that the runtime remembers is not about this link."""
    result = request.prev_result
    if result is None:
        raise CniError(spec.INVALID_CONFIG, "prevResult: is required for CHECK")
    interfaces: list[Any] = result.get("interfaces") or []
    mine = [
        index
        for index, each in enumerate(interfaces)
        if isinstance(each, dict) and each.get("name") == link.ifname and each.get("sandbox") == link.netns
    ]
    if not mine:
        raise CniError(spec.CHECK_FAILED, f"prevResult.interfaces: has no {link.ifname} in {link.netns}")
    mac = str(interfaces[mine[0]].get("mac", "")).lower()
    if mac and mac != pod_mac(link.endpoint_id).hex(":"):
        raise CniError(spec.CHECK_FAILED, f"{link.ifname} has the MAC {pod_mac(link.endpoint_id).hex(':')}, not {mac}")
    ips = [each.get("address", "") for each in result.get("ips") or [] if each.get("interface", mine[0]) in mine]
    for address in map(host_cidr, link.ips):
        if address not in ips:
            named = ", ".join(ips) or "none"
            raise CniError(spec.CHECK_FAILED, f"{link.ifname} has the address {address}, not {named}")
