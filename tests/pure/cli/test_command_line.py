"""The manners of the command line: exit statuses, one line of error, an example everywhere, a quick start."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from kilim.cli.apply import actor
from kilim.cli.command import Command
from kilim.cli.main import main

HEAVY = {"grpc", "yaml", "rich", "google.protobuf", "pyroute2", "numpy", "structlog", "asyncio"}
WHY = ["why", "--from", "x/a", "--to", "x/b", "--port"]
NOBODY = "127.0.0.1:1"  # a port on which nobody listens


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def all_commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{path} {name}"
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_command_has_an_example_that_calls_it() -> None:
    for path, command in all_commands(main, "kilim"):
        assert isinstance(command, Command), path
        assert path in command.example, f"{path}: {command.example}"
        assert command.help, path


def test_every_help_text_prints() -> None:
    for path, _ in all_commands(main, "kilim"):
        status, stdout, _ = run(*path.split()[1:], "--help")
        assert (status, "Examples:" in stdout) == (0, True), path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "error: No such command 'nothing' (see kilim --help)"),
        (["get"], "error: Missing argument 'all|KIND[,KIND…][/NAME]' (see kilim get --help)"),
        (["get", "cheese"], 'error: unknown kind "cheese": must be one of networkpolicies, '),
        (["get", "po", "-o", "xml"], "error: Invalid value for '-o' / '--output': 'xml' is not one of "),
        (["get", "po", "--server", "here"], 'error: --server: "here" must be HOST:PORT'),
        (["get", "po,ns", "a"], "error: KIND: a NAME is of one kind; give KIND NAME"),
        *(
            (
                [*verb, "--cluster", "nope"],
                "error: --cluster: needs --etcd-endpoints; a server and segments are of one ",
            )
            for verb in (["log", "show"], ["log", "show", "--segments", "/"], ["policy", "get"], ["verify"])
        ),
        ([*WHY, "http"], 'error: --port: "http" must be a number, such as 53 or 53/UDP; names of ports are not '),
        ([*WHY, "53/QUIC"], 'error: --port: "53/QUIC": protocol must be one of '),
        ([*WHY, "53/udp", "--protocol", "TCP"], "error: --protocol: TCP contradicts --port 53/UDP"),
        (["endpoint", "config", "shop/db", "--wait"], "error: --wait: goes with an option to change"),
        (["delete"], "error: -f: give either -f FILE or KIND NAME"),
        (["delete", "netpol"], "error: NAME: say what to delete, KIND NAME"),
        (["get", "po", "a", "-A"], "error: -A: a NAME is in one namespace; give -n instead"),
        (["get", "po/a", "-A"], "error: -A: a NAME is in one namespace; give -n instead"),
        (["get", "po", "-A", "-n", "shop"], "error: -A: goes without -n"),
        (["get", "all", "a"], "error: KIND: a NAME is of one kind; give KIND NAME"),
        (["get", "all,cheese"], 'error: unknown kind "cheese": must be one of networkpolicies, '),
        (["bpf", "ct", "list", "--node", "a", "--agent-socket", "b"], "error: --agent-socket: goes without --node"),
        (["describe", "netpol"], "error: NAME: give KIND NAME or KIND/NAME"),
        (["log", "show", "--from", "3", "--to", "2"], "error: --to: must be at least --from (3)"),
        (["apply", "-f", "x", "--timeout", "soon"], "error: Invalid value for '--timeout': \"soon\" must be a time "),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, "")
    assert stderr.startswith(message) and stderr.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line_and_status_1() -> None:
    status, stdout, stderr = run("status", "--server", f"{NOBODY},127.0.0.1:2")
    assert (status, stdout) == (1, "")
    assert (
        stderr
        == f"error: no server can do this now; tried {NOBODY} (connection refused), 127.0.0.1:2 (connection refused)\n"
    )


def test_an_etcd_that_is_not_there_is_said_in_the_same_words() -> None:
    command = [sys.executable, "-m", "kilim.cli.main", "log", "show", "--etcd-endpoints", f"http://{NOBODY}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # what is logged is set up by process
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: no etcd can do this now; tried http://{NOBODY} (connection refused)\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom kilim.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {sorted(HEAVY)} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"


def test_completion_offers_what_there_is() -> None:
    environment = {"_KILIM_COMPLETE": "bash_complete", "COMP_WORDS": "kilim ap", "COMP_CWORD": "1"}
    result = CliRunner(env=environment).invoke(main, [], prog_name="kilim")
    assert result.stdout == "plain,apply\n"


def test_version_by_either_name() -> None:
    assert run("--version") == run("version")
    assert run("version")[1].startswith("kilim ")


def test_standard_input_that_is_no_text_is_one_line() -> None:
    result = CliRunner().invoke(main, ["apply", "-f", "-", "--server", NOBODY], input=b"a: \xff")
    assert (result.exit_code, result.stderr) == (1, "error: standard input: not UTF-8 at byte 3\n")


GOOD = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n"
POLICY = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: %s}}"


def test_a_client_dry_run_needs_no_server() -> None:
    arguments = ["apply", "-f", "-", "--dry-run=client", "--server", NOBODY]
    result = CliRunner().invoke(main, arguments, input=GOOD + POLICY % "{}")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0, ["namespace/shop created (client dry run)", "networkpolicy.networking.k8s.io/a created (client dry run)"],
    )  # fmt: skip
    result = CliRunner().invoke(main, [*arguments, "-o", "name"], input=GOOD)
    assert (result.exit_code, result.stdout) == (0, "namespace/shop\n")
    result = CliRunner().invoke(main, arguments, input=GOOD + POLICY % "3")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1, "", "error: standard input: document 2: spec.podSelector: must be an object, not a number\n",
    )  # fmt: skip


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.setattr("os.getuid", lambda: 4242)
    assert actor().startswith("cli:4242@")


def test_a_negative_value_of_a_setting_is_no_option() -> None:
    status, _, stderr = run("setting", "set", "read-back-interval-s", "-1", "--server", NOBODY)
    assert (status, "option" in stderr) == (1, False) and NOBODY in stderr
    status, _, stderr = run("setting", "get", "retention", "--server", NOBODY)
    assert status == 2 and stderr.startswith(
        'error: NAME: "retention" must be one of allow-localhost, cluster-pool-ipv4-cidr, '
    )


def test_a_client_dry_run_of_delete_needs_no_server() -> None:
    kept = ["--dry-run=client", "--server", NOBODY]
    done = CliRunner().invoke(main, ["delete", "cnp", "db", "-n", "shop", *kept])
    assert (done.exit_code, done.output) == (0, "ciliumnetworkpolicy.cilium.io/db deleted (client dry run)\n")
    done = CliRunner().invoke(main, ["delete", "-f", "-", *kept], input="kind: Deployment\nmetadata: {name: x}\n")
    assert done.exit_code == 1 and "kind: 'Deployment' must be one of" in done.output
