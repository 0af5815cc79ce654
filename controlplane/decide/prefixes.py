"""Which prefixes policies name for pods, how often, and which of them contain an address.

Easy to get wrong: 0.0.0.0/0 is not among them. It contains every pod but those that say that they have IPv6 alone, so
nobody needs a label to be found by it. ::/0 is a prefix like any other: pods without IPv6 are not in it.
"""

from collections.abc import Iterable, Iterator

from kilim.model.address import Cidr, is_ipv6, without_host_bits
from kilim.model.compile import peers_of
from kilim.model.identity import FIRST_CIDR, membership_of
from kilim.model.nouns import decode_identity
from kilim.model.rules import CidrPeer, PolicyRules

_ALL_IPV4 = Cidr(0, 0)


class PrefixTable:
    """One step per length that occurs and address asked for, however many prefixes there are."""

    def __init__(self) -> None:
        self._of_family: dict[bool, dict[int, dict[int, int]]] = {False: {}, True: {}}  # prefix_len -> ip -> uses

    def __contains__(self, cidr: Cidr) -> bool:
        return cidr.ip in self._of_family[is_ipv6(cidr.ip)].get(cidr.prefix_len, ())

    def __bool__(self) -> bool:
        return any(self._of_family.values())

    def items(self) -> Iterator[tuple[Cidr, int]]:
        for of_lengths in self._of_family.values():
            for prefix_len, prefixes in of_lengths.items():
                for ip, uses in prefixes.items():
                    yield Cidr(ip, prefix_len), uses

    def count(self, cidr: Cidr, step: int) -> None:
        of_lengths = self._of_family[is_ipv6(cidr.ip)]
        prefixes = of_lengths.setdefault(cidr.prefix_len, {})
        prefixes[cidr.ip] = prefixes.get(cidr.ip, 0) + step
        if not prefixes[cidr.ip]:
            del prefixes[cidr.ip]
            if not prefixes:
                del of_lengths[cidr.prefix_len]

    def containing(self, ip: int) -> list[Cidr]:
        of_lengths = self._of_family[is_ipv6(ip)]
        masked = ((without_host_bits(ip, prefix_len), prefix_len) for prefix_len in of_lengths)
        return [Cidr(*each) for each in masked if each[0] in of_lengths[each[1]]]


class Bearers:
    """Which identities of endpoints say by a label that their addresses lie in a prefix."""

    def __init__(self) -> None:
        self._of: dict[Cidr, set[int]] = {}

    def of(self, cidr: Cidr) -> set[int]:
        return self._of.get(cidr, set())

    def items(self) -> Iterator[tuple[Cidr, set[int]]]:
        yield from self._of.items()

    def follow(self, number: int, old: bytes | None, new: bytes | None) -> None:
        for value, comes in ((old, False), (new, True)):
            if value is None or number >= FIRST_CIDR or b"cidr:" not in value:
                continue
            for label in decode_identity(value).labels:
                cidr = membership_of(label)
                if cidr is None:
                    continue
                if comes:
                    self._of.setdefault(cidr, set()).add(number)
                else:
                    self._of[cidr].discard(number)
                    if not self._of[cidr]:
                        del self._of[cidr]


def pod_prefixes(parts: Iterable[PolicyRules]) -> tuple[Cidr, ...]:
    """Those that make the identities of the pods inside them, sorted."""
    return prefixes_of(peer for peer in peers_of(parts) if isinstance(peer, CidrPeer) and peer.pods)


def prefixes_of(peers: Iterable[CidrPeer]) -> tuple[Cidr, ...]:
    """All but 0.0.0.0/0, sorted."""
    return tuple(sorted({each for peer in peers for each in (peer.cidr, *peer.excepts) if each != _ALL_IPV4}))
