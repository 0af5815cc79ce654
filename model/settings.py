"""Settings of the cluster that are numbers: name, what holds where none is set, and what may be. Kept in the log.

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
