"""How many rows a rule asks for per identity: its ports as prefixes, named ones by what endpoints offer.

Easy to get wrong: these are upper bounds; a name counts as many ports as anybody in the cluster has under it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from kilim.model.nouns import NamedPort
from kilim.model.rules import Peer, PolicyRules, PortName, PortRange, Rule, port_prefixes
from kilim.model.tables import EGRESS, INGRESS, NORMAL, tier_flag


class Weight(NamedTuple):
    """Of one policy for one subject: `fixed` rows, and rows per identity that a peer selects.

    The peer None is whoever offers a named port."""

    rules: PolicyRules
    fixed: int
    of_peers: dict[Peer | None, int]


class PortWidths:
    def __init__(self) -> None:
        self._offered: dict[tuple[str, int], dict[int, int]] = {}  # (name, protocol) -> port -> endpoints that offer it

    def follow(self, ports: Iterable[NamedPort], step: int) -> bool:
        """An endpoint comes (1) or goes (-1). Whether any width has changed."""
        changed = False
        for port in ports:
            counts = self._offered.setdefault((port.name, port.protocol), {})
            counts[port.port] = counts.get(port.port, 0) + step
            if counts[port.port] == 0:
                del counts[port.port]
                changed = True
            changed = changed or (step > 0 and counts[port.port] == 1)
            if not counts:
                del self._offered[port.name, port.protocol]
        return changed

    def weigh(self, rules: PolicyRules) -> Weight:
        isolated = {each for each in (INGRESS, EGRESS) if rules.flags & tier_flag(NORMAL, each)}
        fixed = len({rule.direction for rule in rules.rules} - isolated)  # rows that pass on what no rule speaks of
        of_peers: dict[Peer | None, int] = {}
        for rule in rules.rules:
            by_number, by_name = self._widths(rule)
            if rule.peers is not None:
                for peer in rule.peers:
                    of_peers[peer] = of_peers.get(peer, 0) + by_number + by_name
            elif rule.direction == EGRESS:  # a name is looked up at each receiver
                fixed += by_number
                if by_name:
                    of_peers[None] = of_peers.get(None, 0) + by_name
            else:
                fixed += by_number + by_name
        return Weight(rules, fixed, of_peers)

    def _widths(self, rule: Rule) -> tuple[int, int]:
        if rule.ports is None:
            return 1, 0
        numbers = [port for port in rule.ports if isinstance(port, PortRange)]
        names = [port for port in rule.ports if isinstance(port, PortName)]
        by_number = sum(len(port_prefixes(port.first, port.last)) for port in numbers)
        return by_number, sum(len(self._offered.get((port.name, port.protocol), ())) for port in names)
