"""The executable `kilim-cni`: environment and standard input to the agent, its answer to standard output.

Easy to get wrong: it starts for every pod, so it imports the standard library only, and little of it (a test counts).
"""

import _socket  # socket.py would import selectors and half of enum's users for nothing
import json
import os
import sys

from kilim.agent.cni import spec
from kilim.agent.cni.spec import CniError

_TIMEOUT_S = 30.0
_NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
}
_CONTAINER_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def main() -> int:
    """Exit status 0, or 1 with an error object on standard output."""
    version = spec.LATEST
    try:
        config = _read_config()
        given = config.get("cniVersion", spec.VERSIONS[0])
        command = os.environ.get("CNI_COMMAND", "")
        if given in spec.VERSIONS:
            version = given
        if command == "VERSION":
            _print({"cniVersion": version, "supportedVersions": list(spec.VERSIONS)})
            return 0
        if given not in spec.VERSIONS:
            rule = f"cniVersion: {given!r} is not supported (supported: {', '.join(spec.VERSIONS)})"
            raise CniError(spec.INCOMPATIBLE_VERSION, rule)
        _check(command, version, config)
        answer = _ask(config.get("socket", spec.DEFAULT_SOCKET), _request(command, config), command)
    except CniError as error:
        _print(error.as_json(version))
        return 1
    if "error" in answer:
        _print({"cniVersion": version, **answer["error"]})
        return 1
    if answer.get("result") is not None:
        _print(answer["result"])
    return 0


def _read_config() -> dict:  # type: ignore[type-arg]
    try:
        config = json.loads(sys.stdin.buffer.read() or b"{}")
    except ValueError as error:
        raise CniError(spec.DECODING_FAILURE, "the network configuration is not JSON", str(error)) from None
    if not isinstance(config, dict):
        raise CniError(spec.DECODING_FAILURE, "the network configuration is not a JSON object")
    return config


def _check(command: str, version: str, config: dict) -> None:  # type: ignore[type-arg]
    if command not in _NEEDED:
        raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_COMMAND: {command!r} is not a command")
    first = spec.FIRST_VERSION_OF.get(command)
    if first is not None and spec.VERSIONS.index(version) < spec.VERSIONS.index(first):
        raise CniError(spec.INCOMPATIBLE_VERSION, f"{command} needs cniVersion {first} or later, not {version}")
    for name in _NEEDED[command]:
        if not os.environ.get(name):
            raise CniError(spec.INVALID_ENVIRONMENT, f"{name}: is required for {command}")
    container_id = os.environ.get("CNI_CONTAINERID", "")
    if container_id and (not container_id[0].isalnum() or not _CONTAINER_ID_CHARACTERS.issuperset(container_id)):
        raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_CONTAINERID: {container_id!r} has invalid characters")
    ifname = os.environ.get("CNI_IFNAME", "")
    if ifname in (".", "..") or len(ifname) > 15 or any(c in "/:" or c.isspace() for c in ifname):
        raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_IFNAME: {ifname!r} is not an interface name")
    if not isinstance(config.get("name"), str) or not config["name"]:
        raise CniError(spec.INVALID_CONFIG, "name: is required")
    if not isinstance(config.get("socket", ""), str):
        raise CniError(spec.INVALID_CONFIG, "socket: must be a path")


def _request(command: str, config: dict) -> bytes:  # type: ignore[type-arg]
    environment = {name: os.environ.get(f"CNI_{name}", "") for name in ("CONTAINERID", "NETNS", "IFNAME", "ARGS")}
    line = json.dumps({"command": command, "environment": environment, "config": config}) + "\n"
    return line.encode()


def _ask(path: str, line: bytes, command: str) -> dict:  # type: ignore[type-arg]
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(_TIMEOUT_S)
    try:
        connection.connect(path)
        view = memoryview(line)
        while view:
            view = view[connection.send(view) :]
        received = bytearray()
        while not received.endswith(b"\n"):
            part = connection.recv(65536)
            if not part:
                break
            received += part
        answer = json.loads(received)
    except (OSError, ValueError) as error:
        away = spec.NOT_AVAILABLE if command == "STATUS" else spec.TRY_AGAIN_LATER
        raise CniError(away, "the agent of this node does not answer", f"{path}: {error}") from None
    finally:
        connection.close()
    return answer  # type: ignore[no-any-return]


def _print(value: dict) -> None:  # type: ignore[type-arg]
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    sys.exit(main())
