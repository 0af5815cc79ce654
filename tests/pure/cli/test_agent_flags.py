"""Flags of `kilim agent` that do not go together."""

import pytest
from click.testing import CliRunner

from kilim.cli.agent import agent
from kilim.cli.failure import BadUsage

NODE = ["--node-name", "n1", "--servers", "192.0.2.1:4260"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--auto-direct-node-routes"], "--auto-direct-node-routes: goes with --routing-mode native alone"),
        (["--dry-run"], "--dry-run: goes with --cleanup alone"),
        (["--health-probe-interval", "100ms"], "--health-probe-interval: must be at least 500ms"),
        (["--datapath-mode", "memory"], "--node-ip: must be given with --datapath-mode memory"),
        (["--ipv4-native-routing-cidr", "fd00::/8"], "--ipv4-native-routing-cidr: fd00::/8 is of the other family"),
        (["--node-ip", "192.0.2.7,192.0.2.8"], "192.0.2.7 and 192.0.2.8 are of one family"),
    ],
)
def test_one_line_names_the_flag_and_the_rule(flags: list[str], says: str) -> None:
    result = CliRunner().invoke(agent, [*NODE, *flags], standalone_mode=False)
    assert isinstance(result.exception, BadUsage) and says in str(result.exception)
