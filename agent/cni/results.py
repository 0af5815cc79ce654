"""The result object of ADD in the form of each CNI version, and what CHECK compares of it. PURE."""

from typing import Any

from kilim.agent.cni import spec
from kilim.agent.cni.requests import Json, PodRequest
from kilim.agent.cni.spec import CniError
from kilim.agent.core.link import PodLink
from kilim.model.address import format_ip
from kilim.model.mac import node_mac, pod_mac

GATEWAY = "169.254.1.1"


def make_result(request: PodRequest, link: PodLink) -> Json:
    """The interfaces of a plugin before us in the chain (prevResult) come first."""
    before = request.prev_result or {}
    interfaces: list[Json] = list(before.get("interfaces") or [])
    ours: list[Json] = [
        {"name": link.name, "mac": node_mac(link.ip).hex(":")},
        {"name": link.ifname, "mac": pod_mac(link.ip).hex(":"), "sandbox": link.netns},
    ]
    address: Json = {"address": f"{format_ip(link.ip)}/32", "gateway": GATEWAY, "interface": len(interfaces) + 1}
    route: Json = {"dst": "0.0.0.0/0", "gw": GATEWAY}
    if request.version == "1.1.0":
        ours = [{**each, "mtu": link.mtu} for each in ours]
        route["mtu"] = link.route_mtu
    elif not request.version.startswith("1."):
        address["version"] = "4"
    return {
        "cniVersion": request.version,
        "interfaces": interfaces + ours,
        "ips": [*(before.get("ips") or []), address],
        "routes": [*(before.get("routes") or []), route],
        "dns": before.get("dns") or {},
    }


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
    if mac and mac != pod_mac(link.ip).hex(":"):
        raise CniError(spec.CHECK_FAILED, f"{link.ifname} has the MAC {pod_mac(link.ip).hex(':')}, not {mac}")
    ips = [each.get("address", "") for each in result.get("ips") or [] if each.get("interface", mine[0]) in mine]
    if f"{format_ip(link.ip)}/32" not in ips:
        named = ", ".join(ips) or "none"
        raise CniError(spec.CHECK_FAILED, f"{link.ifname} has the address {format_ip(link.ip)}/32, not {named}")
