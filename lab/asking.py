"""Probes by name on a lab that runs: from `x/a` to `node:node2`, and what came of each."""

from collections.abc import Sequence

from kilim.lab.commands import agent_socket
from kilim.lab.errors import LabError
from kilim.lab.pods import running_pods
from kilim.lab.probe import Question, Verdict, ask_all, of_families
from kilim.lab.resolve import Places, Unresolvable, node_key
from kilim.lab.scenario import Probe
from kilim.lab.serving import serve
from kilim.lab.topology import Lab, Port


async def ask_probes(lab: Lab, probes: Sequence[Probe]) -> list[Verdict]:
    """In the order of the probes; one that cannot be made here is an error with its reason."""
    places = Places(lab, running_pods(lab))
    await _serve_nodes(lab, places, probes)
    verdicts: dict[int, Verdict] = {}
    questions: dict[tuple[int, str], Question] = {}
    for index, probe in enumerate(probes):
        try:
            for family, target in places.targets(probe).items():
                questions[index, family] = Question(target, probe.expect)
        except Unresolvable as reason:
            verdicts[index] = Verdict("error", message=str(reason))
    answers = await ask_all(list(questions.values()), [agent_socket(lab, node.name) for node in lab.nodes])
    by_probe: dict[int, dict[str, Verdict]] = {}
    for (index, family), answer in zip(questions, answers, strict=True):
        by_probe.setdefault(index, {})[family] = answer
    verdicts |= {index: of_families(answered) for index, answered in by_probe.items()}
    return [verdicts[index] for index in range(len(probes))]


async def _serve_nodes(lab: Lab, places: Places, probes: Sequence[Probe]) -> None:
    """Nodes listen on whatever these probes ask of them, and on nothing else."""
    wanted: dict[str, set[Port]] = {}
    for probe in probes:
        try:
            _, target = places.ends(probe)
        except Unresolvable:
            continue
        if target.node is not None and target.answerer == node_key(target.node) and probe.protocol != "ICMP":
            wanted.setdefault(target.node, set()).add(Port(probe.port, probe.protocol))
    for name, ports in wanted.items():
        node = lab.node(name)
        if errors := await serve(lab, node_key(name), lab.netns(name), tuple(ports), node.ips):
            raise LabError(f"node {name} cannot serve {', '.join(errors)}")
