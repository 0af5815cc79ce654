"""How long until connections are collected again, by the rule of Cilium: the more had expired, the sooner. PURE."""

START_S, LEAST_S, MOST_S = 300.0, 10.0, 12 * 3600.0
_MANY, _FEW = 0.25, 0.05


def next_interval_s(last_s: float, alive: int, deleted: int, most_s: float = MOST_S) -> float:
    """After a collection `last_s` after the one before."""
    ratio = deleted / (alive + deleted) if alive + deleted else 0.0
    if ratio > _MANY:
        last_s *= 1.0 - ratio
    elif ratio < _FEW:
        last_s *= 1.5
    return max(LEAST_S, min(last_s, most_s))
