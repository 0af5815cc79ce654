"""A scenario on a real cluster, with real packets.

The cluster is kept from one scenario to the next where nodes and externals are the same, and so are its pods where they
are wanted again; everything else the last scenario applied is deleted.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from kilim.lab.asking import ask_probes
from kilim.lab.client import ControlPlane, Refused
from kilim.lab.cluster import ClusterSpec, Progress, bring_up, take_down
from kilim.lab.commands import replica_targets
from kilim.lab.errors import BadInput, LabError
from kilim.lab.manifests import namespace_manifest, pod_from_manifest, pod_manifest
from kilim.lab.names import external_role
from kilim.lab.pods import by_key, remove_pod, running_pods, start_pods
from kilim.lab.probe import Verdict
from kilim.lab.scenario import Manifest, Probe, Scenario, Setting
from kilim.lab.serving import serve
from kilim.lab.stage import Refusal, is_enabled, object_ref
from kilim.lab.topology import Lab, Pod
from kilim.model.resource import namespace_of

_REPLICAS = 1  # of the control plane: a scenario asks what policy means, not what survives
_ENFORCED_S = 30.0


class PacketStage:
    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._lab: Lab | None = None
        self._open = AsyncExitStack()
        self._plane: ControlPlane | None = None
        self._applied: set[tuple[str, str, str]] = set()
        self._set: set[tuple[str, str]] = set()
        self._configured: set[str] = set()
        self._seq = 0

    @property
    def lab(self) -> Lab:
        assert self._lab is not None, "set_up comes first"
        return self._lab

    @property
    def plane(self) -> ControlPlane:
        assert self._plane is not None, "set_up comes first"
        return self._plane

    async def set_up(self, scenario: Scenario) -> None:
        spec = ClusterSpec(self._name, scenario.nodes, _REPLICAS, 1, scenario.externals)
        if self._lab is None or not _same_cluster(self._lab, spec):
            await self.close()
            self._lab = await bring_up(spec, self._progress)
            self._plane = await self._open.enter_async_context(ControlPlane(replica_targets(self._lab)))
            await self._serve_externals()
        await self._unset()
        await self._bring_objects_to(scenario)
        await self._bring_pods_to(scenario)
        await self.settle()

    async def apply(self, manifest: Manifest) -> None:
        assert manifest.body is not None
        await self._apply([(manifest.source, manifest.body)])
        if manifest.body.get("kind") == "Pod":
            await self._start_applied_pod(pod_from_manifest(manifest.body))

    async def delete(self, manifest: Manifest) -> None:
        kind, namespace, name = object_ref(manifest)
        try:
            self._seq = await self.plane.delete(kind, namespace, name, manifest.source)
        except Refused as refused:
            raise Refusal(str(refused)) from None
        namespace = namespace_of(kind, namespace)
        self._applied.discard((kind, namespace, name))
        gone = [
            pod.key
            for pod in running_pods(self.lab)
            if (kind, name) == ("Namespace", pod.pod.namespace)
            or (kind, namespace, name) == ("Pod", pod.pod.namespace, pod.pod.name)
        ]
        for key in gone:
            await remove_pod(self.lab, self.plane, key)
            self._seq = 0

    async def set(self, setting: Setting) -> None:
        try:
            if setting.endpoint:
                self._seq = await self.plane.configure_endpoint(setting.endpoint, is_enabled(setting))
                self._configured.add(setting.endpoint)
            else:
                self._seq = await self.plane.set(setting.name, setting.value, setting.node)
                self._set.add((setting.name, setting.node))
        except Refused as refused:
            raise Refusal(str(refused)) from None

    async def settle(self) -> None:
        if self._seq == 0:  # endpoints have come or gone since the last answer
            self._seq = (await self.plane.status()).seq
        answer = await self.plane.wait(self._seq, _ENFORCED_S)
        if answer.down:
            raise LabError(f"nodes {', '.join(answer.down)} are down")

    async def ask(self, probes: Sequence[Probe]) -> list[Verdict]:
        return await ask_probes(self.lab, probes)

    async def close(self) -> None:
        await self._open.aclose()
        self._open, self._plane, self._lab = AsyncExitStack(), None, None
        self._applied.clear()
        self._set.clear()
        self._configured.clear()
        take_down(self._name)

    async def _apply(self, manifests: list[tuple[str, dict[str, object]]]) -> None:
        try:
            self._seq = await self.plane.apply(manifests)
        except Refused as refused:
            raise Refusal(str(refused)) from None
        for _, body in manifests:
            metadata = body["metadata"]
            assert isinstance(metadata, dict)
            namespace = namespace_of(str(body["kind"]), str(metadata.get("namespace") or ""))
            self._applied.add((str(body["kind"]), namespace, str(metadata["name"])))

    async def _unset(self) -> None:
        for name, node in sorted(self._set):
            await self.plane.set(name, "", node)
        for key in sorted(self._configured & by_key(running_pods(self.lab)).keys()):
            await self.plane.configure_endpoint(key, False)
        self._set.clear()
        self._configured.clear()

    async def _bring_objects_to(self, scenario: Scenario) -> None:
        wanted = [(f"namespace {n.name}", namespace_manifest(n.name, n.labels)) for n in scenario.namespaces]
        wanted += [(f"pod {pod.key}", pod_manifest(pod)) for pod in scenario.pods]
        kept = {(b["kind"], b["metadata"].get("namespace", ""), b["metadata"]["name"]) for _, b in wanted}
        for kind, namespace, name in sorted(self._applied - kept):
            if kind != "Pod":  # those go with what runs
                with suppress(Refused):  # a step may have deleted it by another spelling of its namespace
                    await self.plane.delete(kind, namespace, name, f"{kind} {namespace}/{name}")
        self._applied &= kept
        if wanted:
            try:
                await self._apply(wanted)
            except Refusal as refusal:
                raise BadInput(str(refusal)) from None

    async def _bring_pods_to(self, scenario: Scenario) -> None:
        wanted = {pod.key: pod for pod in scenario.pods}
        for key, running in by_key(running_pods(self.lab)).items():
            if wanted.get(key) != running.pod:
                await remove_pod(self.lab, self.plane, key, delete_object=key not in wanted)
        running_keys = by_key(running_pods(self.lab)).keys()
        missing = [pod for key, pod in wanted.items() if key not in running_keys]
        self._progress(f"{len(missing)} pods")
        await start_pods(self.lab, missing)
        self._seq = 0

    async def _start_applied_pod(self, pod: Pod | None) -> None:
        if pod is not None and pod.key not in by_key(running_pods(self.lab)):
            await start_pods(self.lab, [pod])
            self._seq = 0

    async def _serve_externals(self) -> None:
        for external in self.lab.externals:
            netns = self.lab.netns(external_role(external.name))
            await serve(self.lab, f"ext:{external.name}", netns, external.ports)


def _same_cluster(lab: Lab, spec: ClusterSpec) -> bool:
    here = [(node.name, node.pod_cidrs, node.labels) for node in lab.nodes]
    there = [(plan.name, plan.pod_cidrs, plan.labels) for plan in spec.nodes]
    return here == there and lab.externals == spec.externals
