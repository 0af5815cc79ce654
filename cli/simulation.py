"""What a simulation found, as text and as data: groups of pairs by workload, and single flows that were seen.

Easy to get wrong: `shop/web-*` stands for all pods of that name only where all of them are meant; else they are listed.
"""

from collections.abc import Iterable, Sequence
from os.path import commonprefix
from typing import Any

from kilim.cli.flow_lines import SeenFlows
from kilim.model.address import format_ip
from kilim.model.comparison import Comparison
from kilim.model.flip_groups import FlipGroup
from kilim.model.flow_verdicts import FlowEnd, SeenFlow, Verdicts
from kilim.model.l4_set import EVERYTHING, OTHERS, L4Set, Range, last_of, without
from kilim.model.protocols import PROTOCOL_WORDS, WITH_TYPES

MOST_NAMES = 4  # of one namespace in a line; -o json has them all
MOST_NAMESPACES = 4
WORDS = {True: "allowed", False: "denied"}


class EndNames:
    """Names for sets of ends of a comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self._ends = comparison.ends
        self._namespace: dict[int, str] = {}
        self._in_namespace: dict[str, set[int]] = {}
        self._called: dict[tuple[str, str], set[int]] = {}
        self._workload: dict[int, str] = {}
        for number, end in enumerate(self._ends):
            if end.is_ours:
                namespace = end.names[0].partition("/")[0]
                workload = _workload([name.partition("/")[2] for name in end.names])
                self._namespace[number], self._workload[number] = namespace, workload
                self._in_namespace.setdefault(namespace, set()).add(number)
                self._called.setdefault((namespace, workload), set()).add(number)

    def text(self, places: Sequence[int], peers: Sequence[int] = ()) -> str:
        """A pod alone is not named as a peer of nobody but itself."""
        pods = {number for number in places if self._ends[number].is_ours}
        names = [self._ends[number].names[0] for number in places if number not in pods]
        if len(self._in_namespace) > 1 and len(pods) == len(self._namespace):
            return ", ".join(["every pod", *names])
        texts = []
        for namespace, members in sorted(self._in_namespace.items()):
            meant = pods & members
            if meant:
                whole = meant == members and len(members) > 1
                named = meant if whole or not self._is_one_pod(peers) else meant - set(peers)
                if named:
                    texts.append(f"{namespace}/" + ("*" if whole else _listed(self._names(namespace, named))))
        if len(texts) > MOST_NAMESPACES:
            texts[MOST_NAMESPACES:] = [f"{len(texts) - MOST_NAMESPACES} more namespaces"]
        return ", ".join([*texts, *names])

    def listed(self, places: Sequence[int], peers: Sequence[int] = ()) -> list[str]:
        """Every pod and prefix."""
        but = peers if self._is_one_pod(peers) else ()
        return [name for number in places if number not in but for name in self._ends[number].names]

    def _is_one_pod(self, places: Sequence[int]) -> bool:
        return len(places) == 1 and self._ends[places[0]].is_ours and len(self._ends[places[0]].names) == 1

    def _names(self, namespace: str, meant: set[int]) -> list[str]:
        names: dict[str, None] = {}
        for number in sorted(meant):
            workload = self._workload[number]
            if self._called[namespace, workload] <= meant:
                names[workload] = None
            else:
                names.update(dict.fromkeys(name.partition("/")[2] for name in self._ends[number].names))
        return list(names)


def _workload(names: Sequence[str]) -> str:
    """`web-*` for pods that are called alike up to a dash; several that are not are all named."""
    if len(names) == 1:
        return names[0]
    head = commonprefix(list(names)).rpartition("-")[0]
    return f"{head}-*" if head else _listed(names)


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return "{" + ",".join([*names[:MOST_NAMES], *more]) + "}"


def ranges_text(ranges: L4Set) -> str:
    others = without(EVERYTHING, ranges)
    if not others:
        return "any port"
    if len(others) < len(ranges):
        return f"any port but {', '.join(map(range_text, others))}"
    return ", ".join(map(range_text, ranges))


def range_text(one: Range) -> str:
    if one.protocol == OTHERS:
        return "other protocols"
    word = PROTOCOL_WORDS.get(one.protocol, str(one.protocol))
    name = word + (" type" if one.protocol in WITH_TYPES else "")
    if (one.first, one.last) == (0, last_of(one.protocol)):
        return f"{word} any type" if one.protocol in WITH_TYPES else f"{name} any port"
    return f"{name} {one.first}" if one.first == one.last else f"{name} {one.first}-{one.last}"


def range_data(one: Range) -> dict[str, Any]:
    return {"protocol": PROTOCOL_WORDS.get(one.protocol, "other"), "first": one.first, "last": one.last}


def group_lines(comparison: Comparison, groups: Sequence[FlipGroup]) -> Iterable[str]:
    names = EndNames(comparison)
    for group in groups:
        cause = f" ({', '.join(group.causes)})" if group.causes else ""
        sources, destinations = (
            names.text(group.sources, group.destinations),
            names.text(group.destinations, group.sources),
        )
        yield (
            f"{sources} -> {destinations} {ranges_text(group.ranges)}: "
            f"{WORDS[not group.allowed]} -> {WORDS[group.allowed]}{cause}"
        )
    pairs = sum(group.pairs for group in groups)
    yield f"{pairs or 'no'} verdict{'s' if pairs > 1 else ''} would change"


def group_data(comparison: Comparison, groups: Sequence[FlipGroup]) -> list[dict[str, Any]]:
    names = EndNames(comparison)
    return [
        {
            "from": names.listed(group.sources, group.destinations),
            "to": names.listed(group.destinations, group.sources),
            "ports": [range_data(each) for each in group.ranges],
            "before": WORDS[not group.allowed],
            "after": WORDS[group.allowed],
            "causes": list(group.causes),
            "pairs": group.pairs,
        }
        for group in groups
    ]


Flips = Sequence[tuple[SeenFlow, int, Verdicts]]


def flow_lines(flips: Flips, unplaced: int, seen: SeenFlows) -> Iterable[str]:
    for flow, count, verdicts in flips:
        times = "once" if count == 1 else f"{count} times"
        yield f"{_flow_text(flow)}: {WORDS[verdicts.before]} -> {WORDS[verdicts.after]} (seen {times})"
    yield (
        f"{len(flips)} of {len(seen.flows)} flows would change; {unplaced} could not be placed; "
        f"left out: {seen.replies} replies, {seen.others} others"
    )


def flow_data(flips: Flips, unplaced: int, seen: SeenFlows) -> dict[str, Any]:
    return {
        "changes": [
            {
                "flow": _flow_text(flow),
                "seen": count,
                "before": WORDS[verdicts.before],
                "after": WORDS[verdicts.after],
            }
            for flow, count, verdicts in flips
        ],
        "flows": len(seen.flows),
        "unplaced": unplaced,
        "replies": seen.replies,
        "others": seen.others,
    }


def _flow_text(flow: SeenFlow) -> str:
    kind = "type " if flow.protocol in WITH_TYPES else ""
    l4 = f"{PROTOCOL_WORDS[flow.protocol]} {kind}{flow.port}"
    return f"{_end_text(flow.source)} -> {_end_text(flow.destination)} {l4}"


def _end_text(end: FlowEnd) -> str:
    return end.key or (format_ip(end.ip) if end.ip is not None else "?")
