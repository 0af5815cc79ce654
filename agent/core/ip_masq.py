"""The configuration of ip-masq-agent: which destinations packets of pods reach as they are. PURE.

Form and defaults are those of kubernetes-sigs/ip-masq-agent and of Cilium's `--enable-ip-masq-agent`.
"""

from dataclasses import dataclass
from typing import Any

from kilim.model.address import Cidr, parse_cidr

LINK_LOCAL_IPV4 = parse_cidr("169.254.0.0/16")
LINK_LOCAL_IPV6 = parse_cidr("fe80::/10")
# Private, shared, documentation and reserved blocks: RFC 1918, 6598, 6890, 5737, 2544, 1112.
DEFAULT_CIDRS = tuple(
    map(
        parse_cidr,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24"),
            *("192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
        ),
    )
)
_CIDRS, _IPV4, _IPV6 = "nonMasqueradeCIDRs", "masqLinkLocal", "masqLinkLocalIPv6"


@dataclass(frozen=True, slots=True)
class IpMasq:
    """`masq_link_local*`: packets to link-local addresses are masqueraded too."""

    cidrs: tuple[Cidr, ...] = DEFAULT_CIDRS
    masq_link_local_ipv4: bool = False
    masq_link_local_ipv6: bool = False

    def exempt(self) -> tuple[Cidr, ...]:
        own = () if self.masq_link_local_ipv4 else (LINK_LOCAL_IPV4,)
        return (*self.cidrs, *own, *(() if self.masq_link_local_ipv6 else (LINK_LOCAL_IPV6,)))


def read_ip_masq(document: Any) -> IpMasq:
    """Of what the file says as YAML or JSON has it; nothing: the defaults. Raises ValueError that names the field."""
    if document is None or document == {}:
        return IpMasq()
    if not isinstance(document, dict):
        raise ValueError(f"must be a mapping with {_CIDRS}, {_IPV4}, {_IPV6}")
    for key in document:
        if key not in (_CIDRS, _IPV4, _IPV6):
            raise ValueError(f"{key}: unknown field")
    return IpMasq(_cidrs(document.get(_CIDRS)), _flag(document, _IPV4), _flag(document, _IPV6))


def _cidrs(value: Any) -> tuple[Cidr, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{_CIDRS}: must be a list of CIDRs")
    found = []
    for place, text in enumerate(value):
        try:
            if not isinstance(text, str):
                raise ValueError("must be a CIDR such as 10.0.0.0/8")
            found.append(parse_cidr(text))
        except ValueError as error:
            raise ValueError(f"{_CIDRS}[{place}]: {error}") from None
    return tuple(found)


def _flag(document: dict[str, Any], key: str) -> bool:
    value = document.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key}: must be true or false")
    return value
