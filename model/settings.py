"""Settings of the cluster that are numbers or words: name, what holds where none is set, and what may be. In the log.

Easy to get wrong: readers never fail (I1). A value that breaks its rule was refused when it was decided; one that an
older or newer version let through counts as not set.
"""

from dataclasses import dataclass

from kilim.model.state import State


@dataclass(frozen=True, slots=True)
class NumberSetting:
    """A whole number from `least` to `most`; `unit` is for people."""

    name: str
    default: int
    least: int
    most: int
    unit: str

    def parse(self, text: str) -> int:
        """Raises ValueError with the rule."""
        if text.isascii() and text.isdigit() and len(text) <= 18 and self.least <= int(text) <= self.most:
            return int(text)
        raise ValueError(f"must be a number of {self.unit} from {self.least} to {self.most}")

    def read(self, state: State) -> int:
        setting = state.settings.get(self.name)
        try:
            return self.parse(setting.value) if setting is not None and setting.value else self.default
        except ValueError:
            return self.default


@dataclass(frozen=True, slots=True)
class WordSetting:
    """One of several words; the first is what holds where none is set."""

    name: str
    words: tuple[str, ...]

    def parse(self, text: str) -> str:
        """Raises ValueError with the rule."""
        if text in self.words:
            return text
        raise ValueError(f"must be one of {', '.join(self.words)}")

    def read(self, state: State) -> str:
        setting = state.settings.get(self.name)
        return setting.value if setting is not None and setting.value in self.words else self.words[0]


# What the CIDRs of networking.k8s.io and policy.networking.k8s.io select beside what is outside the cluster. Cilium's
# option of this name says the same of its "nodes"; without it no CIDR selects anything of the cluster there.
PODS = "pods"
POLICY_CIDR_MATCH_MODE = WordSetting("policy-cidr-match-mode", (PODS, "none"))

SNAPSHOT_EVERY_EVENTS = NumberSetting("snapshot-every-events", 20_000, 10, 10_000_000, "events")
SNAPSHOT_RETENTION_COUNT = NumberSetting("snapshot-retention-count", 3, 2, 100, "snapshots")
LOG_RETENTION_EVENTS = NumberSetting("log-retention-events", 200_000, 10, 100_000_000, "events")
LOG_RETENTION_AGE_H = NumberSetting("log-retention-age-h", 168, 1, 87_600, "hours")
READ_BACK_INTERVAL_S = NumberSetting("read-back-interval-s", 30, 1, 86_400, "seconds")

NUMBER_SETTINGS = {
    setting.name: setting
    for setting in (
        SNAPSHOT_EVERY_EVENTS,
        SNAPSHOT_RETENTION_COUNT,
        LOG_RETENTION_EVENTS,
        LOG_RETENTION_AGE_H,
        READ_BACK_INTERVAL_S,
    )
}
WORD_SETTINGS = {setting.name: setting for setting in (POLICY_CIDR_MATCH_MODE,)}
