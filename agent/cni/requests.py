"""What a runtime asks for, decoded and checked. Every complaint names the field and the rule. PURE."""

from dataclasses import dataclass
from typing import Any

from kilim.agent.cni import spec
from kilim.agent.cni.spec import CniError
from kilim.model.address import is_ipv6, parse_cidr, parse_ip

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodRequest:
    """`labels` None: the configuration says nothing about them. `ips`: those asked for, at most one of a family.
    `health`: no runtime's, but the agent's own for its health endpoint."""

    command: str
    version: str
    container_id: str
    netns: str
    ifname: str
    namespace: str
    pod: str
    labels: dict[str, str] | None
    service_account: str
    ips: tuple[int, ...]
    prev_result: Json | None
    valid_attachments: tuple[tuple[str, str], ...] | None
    health: bool = False

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
        ips=_requested_ips(_object(config, "runtimeConfig"), cni_args),
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


def _requested_ips(runtime: Json, cni_args: Json) -> tuple[int, ...]:
    """runtimeConfig.ips, or args.cni.ips of the conventions: addresses with or without a prefix length. IPv4 first."""
    path, given = ("runtimeConfig.ips", runtime["ips"]) if runtime.get("ips") else ("args.cni.ips", cni_args.get("ips"))
    if not given:
        return ()
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise CniError(spec.INVALID_CONFIG, f"{path}: must be a list of addresses")
    by_family: dict[bool, int] = {}
    for number, text in enumerate(given):
        ip = _address(text, f"{path}[{number}]")
        if is_ipv6(ip) in by_family:
            raise CniError(spec.UNSUPPORTED_FIELD, f"{path}: one address of a family is supported")
        by_family[is_ipv6(ip)] = ip
    return tuple(by_family[family] for family in sorted(by_family))


def _address(text: str, path: str) -> int:
    try:
        if "/" in text:
            parse_cidr(text)
        return parse_ip(text.partition("/")[0])
    except ValueError as error:
        raise CniError(spec.INVALID_CONFIG, f"{path}: {error}") from None


def _valid_attachments(config: Json) -> tuple[tuple[str, str], ...] | None:
    given = config.get("cni.dev/valid-attachments")
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise CniError(spec.INVALID_CONFIG, "cni.dev/valid-attachments: must be a list of {containerID, ifname}")
    return tuple((str(each.get("containerID", "")), str(each.get("ifname", ""))) for each in given)
