"""What a runtime asks for, decoded and checked. Every complaint names the field and the rule. PURE."""

from dataclasses import dataclass
from typing import Any

from kilim.agent.cni import spec
from kilim.agent.cni.spec import CniError
from kilim.model.address import parse_ipv4

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodRequest:
    """`labels` None: the configuration says nothing about them. `ip` None: any."""

    command: str
    version: str
    container_id: str
    netns: str
    ifname: str
    namespace: str
    pod: str
    labels: dict[str, str] | None
    service_account: str
    ip: int | None
    prev_result: Json | None
    valid_attachments: tuple[tuple[str, str], ...] | None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.pod}"


def decode_request(data: Any) -> PodRequest:
    """Raises CniError."""
    if not isinstance(data, dict) or not isinstance(data.get("environment"), dict):
        raise CniError(spec.DECODING_FAILURE, "not a request of kilim-cni")
    environment, config = data["environment"], _object(data, "config")
    container_id = str(environment.get("CONTAINERID", ""))
    arguments = _arguments(str(environment.get("ARGS", "")))
    cni_args = _object(_object(config, "args"), "cni", "args.cni")
    prev_result = config.get("prevResult")
    if prev_result is not None and not isinstance(prev_result, dict):
        raise CniError(spec.INVALID_CONFIG, "prevResult: must be an object")
    return PodRequest(
        command=str(data.get("command", "")),
        version=str(config.get("cniVersion", spec.VERSIONS[0])),
        container_id=container_id,
        netns=str(environment.get("NETNS", "")),
        ifname=str(environment.get("IFNAME", "")),
        namespace=arguments.get("K8S_POD_NAMESPACE", "default"),
        pod=arguments.get("K8S_POD_NAME", container_id),
        labels=_labels(cni_args),
        service_account=str(cni_args.get("serviceAccount", "")),
        ip=_requested_ip(_object(config, "runtimeConfig"), cni_args),
        prev_result=prev_result,
        valid_attachments=_valid_attachments(config),
    )


def _object(parent: Json, field: str, path: str = "") -> Json:
    value = parent.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CniError(spec.INVALID_CONFIG, f"{path or field}: must be an object")
    return value


def _arguments(text: str) -> dict[str, str]:
    """CNI_ARGS: `KEY=value;KEY=value`."""
    arguments = {}
    for pair in filter(None, text.split(";")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} is not KEY=VALUE")
        if value:
            arguments[key] = value
    return arguments


def _labels(cni_args: Json) -> dict[str, str] | None:
    given = cni_args.get("labels")
    if given is None:
        return None
    if not isinstance(given, list) or not all(
        isinstance(each, dict) and isinstance(each.get("key"), str) and isinstance(each.get("value", ""), str)
        for each in given
    ):
        raise CniError(spec.INVALID_CONFIG, "args.cni.labels: must be a list of {key, value}")
    return {each["key"]: each.get("value", "") for each in given}


def _requested_ip(runtime: Json, cni_args: Json) -> int | None:
    """runtimeConfig.ips, or args.cni.ips of the conventions; one IPv4 address, with or without a prefix."""
    path, given = ("runtimeConfig.ips", runtime["ips"]) if runtime.get("ips") else ("args.cni.ips", cni_args.get("ips"))
    if not given:
        return None
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], str):
        raise CniError(spec.UNSUPPORTED_FIELD, f"{path}: one IPv4 address is supported")
    try:
        return parse_ipv4(given[0].partition("/")[0])
    except ValueError as error:
        raise CniError(spec.INVALID_CONFIG, f"{path}[0]: {error}") from None


def _valid_attachments(config: Json) -> tuple[tuple[str, str], ...] | None:
    given = config.get("cni.dev/valid-attachments")
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise CniError(spec.INVALID_CONFIG, "cni.dev/valid-attachments: must be a list of {containerID, ifname}")
    return tuple((str(each.get("containerID", "")), str(each.get("ifname", ""))) for each in given)
