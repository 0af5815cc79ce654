"""Label selectors: "A label selector is a label query over a set of resources. The result of matchLabels and
matchExpressions are ANDed. An empty label selector matches all objects. A null label selector matches no objects."
"""

from collections.abc import Mapping
from typing import Any

Labels = Mapping[str, str]


def selects(selector: dict[str, Any] | None, labels: Labels) -> bool:
    """A missing selector is the caller's to interpret; here it is the empty one."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    return all(meets(requirement, labels) for requirement in selector.get("matchExpressions") or [])


def meets(requirement: dict[str, Any], labels: Labels) -> bool:
    key, values = requirement["key"], requirement.get("values") or []
    match requirement["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":  # also "all resources with no labels with the key"
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(requirement["operator"])
