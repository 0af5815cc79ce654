"""No test leaves anything behind: tasks, child processes, namespaces, pins, cgroups.

Several people run tests on one machine at once, so only what is certainly ours counts: processes by a token that they
inherit in their environment, names by the prefix that `name_prefix` gives (tests name what they make after it).
"""

from collections.abc import Iterator

import pytest

from tests import leaks

REAL_SUITES = {"contract", "kernel", "datapath", "lab", "faults"}
MAY_BE_ABSENT = ("policy-cases", "promtool")  # data beside the checkout, and what only checks our spelling


@pytest.fixture(scope="session")
def name_prefix() -> str:
    """Begins the name of every lab, namespace, pin directory and cgroup of this session; short, for link names."""
    return leaks.PREFIX


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """The first fixture set up and so the last torn down: by then a test must have ended what it started."""
    shared = _wider_fixtures(request)
    before = leaks.children()
    leaks.unfinished_tasks.clear()
    yield
    left = list(leaks.unfinished_tasks)
    if not shared:  # else a process may be the fixture's own, restarted; the end of the session looks at those
        left += leaks.new_children(before)
    if left:
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


def _wider_fixtures(request: pytest.FixtureRequest) -> bool:
    definitions = request.node._fixtureinfo.name2fixturedefs.values()
    return any(
        definition.scope != "function" and definition.func.__module__.startswith(("tests", "conftest"))
        for stack in definitions
        for definition in stack
        if definition.argname != "name_prefix"
    )


def pytest_configure(config: pytest.Config) -> None:
    leaks.mark_this_session()
    leaks.watch_tasks(config.rootpath)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a test that says it cannot run is a failure, unless what it lacks is data that need not be there."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    suite = item.path.relative_to(item.config.rootpath).parts[1]
    if leaks.in_ci() and report.skipped and not hasattr(report, "wasxfail") and suite in REAL_SUITES:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(absent in reason for absent in MAY_BE_ABSENT):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if leaks.WORKER:
        return
    left = leaks.left_by_session()
    session.config.stash[leaks.LEFT] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(leaks.LEFT, []):
        terminalreporter.write_line(f"LEFT BEHIND by this session: {line}", red=True)
