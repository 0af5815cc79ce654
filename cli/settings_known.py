"""Every setting that this version knows, beside what is set: what `kilim setting list` shows. Driven by the model's
registries, so that a new setting appears by itself; one that only the server knows is shown without its rule."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kilim.model.settings import (
    CLUSTER_POOL_IPV4_CIDR,
    CLUSTER_POOL_IPV4_MASK_SIZE,
    CLUSTER_POOL_IPV6_CIDR,
    CLUSTER_POOL_IPV6_MASK_SIZE,
    NUMBER_SETTINGS,
    WORD_SETTINGS,
    NumberSetting,
)

# Of which each replica brings the default.
_POOLS = {
    CLUSTER_POOL_IPV4_CIDR: "an IPv4 CIDR that holds a node's",
    CLUSTER_POOL_IPV4_MASK_SIZE: "a prefix length, 8 to 30",
    CLUSTER_POOL_IPV6_CIDR: "an IPv6 CIDR that holds a node's",
    CLUSTER_POOL_IPV6_MASK_SIZE: "a prefix length, 32 to 126",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """`is_set`: not at its default. `default` "" where each replica brings its own."""

    name: str
    value: str
    default: str
    allowed: str
    unit: str = ""
    node: str = ""
    is_set: bool = False
    least: int | None = None
    most: int | None = None
    words: tuple[str, ...] = ()


def known_names() -> list[str]:
    return sorted((*NUMBER_SETTINGS, *WORD_SETTINGS, *_POOLS))


def settings_shown(objects: Iterable[Mapping[str, Any]]) -> list[Shown]:
    """`objects`: of kind Setting, as the control plane lists them."""
    values = {(each["metadata"]["name"], each["spec"].get("node", "")): each["spec"]["value"] for each in objects}
    names = sorted({*known_names(), *(name for name, _ in values)})
    rows = []
    for name in names:
        plain = _at_default(name)
        rows.append(_with(plain, values, ""))
        rows += [_with(plain, values, node) for each, node in sorted(values) if each == name and node]
    return rows


def setting_data(row: Shown) -> dict[str, Any]:
    """Numbers as numbers."""
    is_number = row.least is not None
    allowed: Any = list(row.words) or row.allowed
    if is_number:
        allowed = {"least": row.least, "most": row.most}
    return {
        "name": row.name,
        "node": row.node or None,
        "value": int(row.value) if is_number and row.value.isdecimal() else row.value or None,
        "default": int(row.default) if is_number else row.default or None,
        "allowed": allowed or None,
        "unit": row.unit or None,
        "is_set": row.is_set,
    }


def _with(plain: Shown, values: Mapping[tuple[str, str], str], node: str) -> Shown:
    value = values.get((plain.name, node))
    return plain if value is None else replace(plain, value=value, node=node, is_set=True)


def _at_default(name: str) -> Shown:
    setting = NUMBER_SETTINGS.get(name) or WORD_SETTINGS.get(name)
    if setting is None:
        return Shown(name, "", "", _POOLS.get(name, ""))
    if isinstance(setting, NumberSetting):
        default, allowed = str(setting.default), f"{setting.least} to {setting.most}"
        return Shown(name, default, default, allowed, setting.unit, least=setting.least, most=setting.most)
    return Shown(name, setting.words[0], setting.words[0], ", ".join(setting.words), words=setting.words)
