"""The rivals' rules in their node: kube-proxy's for a cluster of services, and the network policy of the bench's pods.

As kube-proxy and the usual policy engines write them: what belongs to a connection passes at the first rule; what opens
one goes past all services (iptables: rule by rule; nftables: one look-up in a map) and the rules of both ends.
"""

import ipaddress
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.netload import BenchError

SERVICES = 1000
_BACKENDS = 2
_MASQUERADE = "0x4000/0x4000"
_FAMILIES = (4, 6)
_CIDRS = {4: ("172.30.0.0", "10.99.0.0"), 6: ("fd00:172:30::", "fd00:10:99::")}  # of services, of their backends

Ips = tuple[str, str]


def load_iptables(netns: Path, client: Ips, server: Ips, port: int) -> None:
    for family, command in zip(_FAMILIES, ("iptables-legacy-restore", "ip6tables-legacy-restore"), strict=True):
        at = family // 6
        rules = [*_nat_table(family), *_filter_table(client[at], server[at], port)]
        _feed(netns, [command], "\n".join(rules) + "\n")


def load_nftables(netns: Path, client: Ips, server: Ips, port: int) -> None:
    text = "\n".join(line for family in _FAMILIES for line in _nft_table(family, client, server, port))
    _feed(netns, ["nft", "-f", "-"], text + "\n")


LOADERS: dict[str, Callable[[Path, Ips, Ips, int], None]] = {"iptables": load_iptables, "nftables": load_nftables}


def _feed(netns: Path, command: list[str], text: str) -> None:
    if shutil.which(command[0]) is None:
        raise BenchError(f"the bench needs {command[0]} for a rival's rules: install iptables and nftables")
    done = subprocess.run(["nsenter", f"--net={netns}", "--", *command], input=text, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr.strip().splitlines()[:1]}")


def _addresses(family: int, which: int, count: int) -> list[str]:
    first = ipaddress.ip_address(_CIDRS[family][which])
    return [str(first + 1 + number) for number in range(count)]


def _services(family: int) -> Iterator[tuple[int, str, list[str]]]:
    """Number, address, backends."""
    backends = _addresses(family, 1, SERVICES * _BACKENDS)
    for number, ip in enumerate(_addresses(family, 0, SERVICES)):
        yield number, ip, backends[number * _BACKENDS :][:_BACKENDS]


def _with_port(ip: str) -> str:
    return f"[{ip}]:80" if ":" in ip else f"{ip}:80"


def _nat_table(family: int) -> Iterator[str]:
    yield from ("*nat", ":KUBE-SERVICES -", ":KUBE-POSTROUTING -", ":KUBE-MARK-MASQ -", ":KUBE-NODEPORTS -")
    for number, _, backends in _services(family):
        yield f":KUBE-SVC-{number} -"
        yield from (f":KUBE-SEP-{number}-{at} -" for at in range(len(backends)))
    yield "-A PREROUTING -j KUBE-SERVICES"
    yield "-A OUTPUT -j KUBE-SERVICES"
    yield "-A POSTROUTING -j KUBE-POSTROUTING"
    yield f"-A KUBE-MARK-MASQ -j MARK --or-mark {_MASQUERADE.partition('/')[0]}"
    yield f"-A KUBE-POSTROUTING -m mark ! --mark {_MASQUERADE} -j RETURN"
    yield "-A KUBE-POSTROUTING -j MASQUERADE --random-fully"
    for number, ip, backends in _services(family):
        yield f"-A KUBE-SERVICES -d {ip} -p tcp -m tcp --dport 80 -j KUBE-SVC-{number}"
        yield from _service_chain(number, backends)
    yield "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
    yield "COMMIT"


def _service_chain(number: int, backends: list[str]) -> Iterator[str]:
    for at, backend in enumerate(backends):
        left = len(backends) - at
        chance = f"-m statistic --mode random --probability {1 / left:.5f} " if left > 1 else ""
        yield f"-A KUBE-SVC-{number} {chance}-j KUBE-SEP-{number}-{at}"
        yield f"-A KUBE-SEP-{number}-{at} -s {backend} -j KUBE-MARK-MASQ"
        yield f"-A KUBE-SEP-{number}-{at} -p tcp -m tcp -j DNAT --to-destination {_with_port(backend)}"


def _filter_table(client: str, server: str, port: int) -> Iterator[str]:
    """Both pods are selected both ways; the port is open from one to the other."""
    yield from ("*filter", ":POLICY -", ":FROM-CLIENT -", ":FROM-SERVER -", ":TO-CLIENT -", ":TO-SERVER -")
    yield "-A FORWARD -j POLICY"
    yield "-A FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield f"-A FORWARD -m mark --mark {_MASQUERADE} -j ACCEPT"
    yield "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield "-A POLICY -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    for ip, pod in ((client, "CLIENT"), (server, "SERVER")):
        yield f"-A POLICY -s {ip} -j FROM-{pod}"
    for ip, pod in ((client, "CLIENT"), (server, "SERVER")):
        yield f"-A POLICY -d {ip} -j TO-{pod}"
    for protocol in ("tcp", "udp"):
        for ip in (client, server):
            yield f"-A FROM-CLIENT -d {ip} -p {protocol} --dport {port} -j RETURN"
            yield f"-A FROM-SERVER -d {ip} -p {protocol} --dport {port} -j RETURN"
        yield f"-A TO-SERVER -s {client} -p {protocol} --dport {port} -j RETURN"
        yield f"-A TO-CLIENT -s {client} -p {protocol} --dport {port} -j RETURN"
    yield from (f"-A {chain} -j DROP" for chain in ("FROM-CLIENT", "FROM-SERVER", "TO-CLIENT", "TO-SERVER"))
    yield "COMMIT"


def _nft_table(family: int, client: Ips, server: Ips, port: int) -> Iterator[str]:
    ip = "ip" if family == 4 else "ip6"
    pods = client[family // 6], server[family // 6]
    yield f"table {ip} bench {{"
    yield from _nft_services(family, ip)
    yield from _nft_policy(family, ip, pods, port)
    yield "}"


def _nft_services(family: int, ip: str) -> Iterator[str]:
    elements = []
    for number, vip, backends in _services(family):
        for at, backend in enumerate(backends):
            yield f" chain ep-{number}-{at} {{ {ip} saddr {backend} meta mark set mark or 0x4000"
            yield f"  meta l4proto tcp dnat to {_with_port(backend)}; }}"
        choice = ", ".join(f"{at} : goto ep-{number}-{at}" for at in range(len(backends)))
        yield f" chain svc-{number} {{ numgen random mod {len(backends)} vmap {{ {choice} }}; }}"
        elements.append(f"{vip} . tcp . 80 : goto svc-{number}")
    kind = "ipv4_addr" if family == 4 else "ipv6_addr"
    yield f" map service-ips {{ type {kind} . inet_proto . inet_service : verdict"
    yield f"  elements = {{ {', '.join(elements)} }}; }}"
    yield f" chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; }}"
    yield " chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }"
    yield " chain nat-output { type nat hook output priority -100; jump services; }"
    yield " chain nat-postrouting { type nat hook postrouting priority srcnat"
    yield "  meta mark and 0x4000 != 0 masquerade random,fully-random; }"


def _nft_policy(family: int, ip: str, pods: tuple[str, str], port: int) -> Iterator[str]:
    kind = "ipv4_addr" if family == 4 else "ipv6_addr"
    ports = [f"{protocol} . {port}" for protocol in ("tcp", "udp")]
    egress = ", ".join(f"{src} . {dst} . {each}" for src in pods for dst in pods for each in ports)
    ingress = ", ".join(f"{pods[0]} . {dst} . {each}" for dst in pods for each in ports)
    yield f" set selected {{ type {kind}; elements = {{ {', '.join(pods)} }}; }}"
    for name, elements in (("egress", egress), ("ingress", ingress)):
        yield f" set {name} {{ type {kind} . {kind} . inet_proto . inet_service"
        yield f"  elements = {{ {elements} }}; }}"
    yield " chain network-policy { type filter hook forward priority filter"
    yield "  ct state established,related accept"
    five = f"{ip} saddr . {ip} daddr . meta l4proto . th dport"
    yield f"  {ip} saddr @selected {five} != @egress drop"
    yield f"  {ip} daddr @selected {five} != @ingress drop"
    yield "  ct state invalid drop; }"
