"""What the flags of processes may be given: addresses, prefixes, lists, labels."""

import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kilim.cli.addresses import FORM, split_port, with_port

F = TypeVar("F", bound=Callable[..., Any])
DIRECTORY = click.Path(file_okay=False, path_type=Path)


class Address(click.ParamType[str]):
    """HOST:PORT, or unix:PATH where that is allowed."""

    name = "address"

    def __init__(self, unix: bool = False) -> None:
        self.unix = unix

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if self.unix and text.startswith("unix:/"):
            return text
        parts = split_port(text)
        if parts is None:
            self.fail(f'"{text}" must be {FORM}' + (", or unix:/PATH" if self.unix else ""), param, ctx)
        return with_port(*parts)


class NodeIp(click.ParamType[str]):
    """An address that other nodes can reach."""

    name = "ip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kilim.model.address import format_ip, parse_ip

        try:
            text = format_ip(parse_ip(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        ip = ipaddress.ip_address(text)
        if ip.is_unspecified or ip.is_loopback or ip.is_multicast or (ip.version == 6 and ip.is_link_local):
            self.fail(f'"{text}" is not an address that other nodes can reach', param, ctx)
        return text


class IpCidr(click.ParamType[str]):
    name = "cidr"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from kilim.model.address import parse_cidr

        try:
            cidr = str(parse_cidr(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if ipaddress.ip_interface(str(value)) != ipaddress.ip_interface(cidr):
            self.fail(f'"{value}" has bits set behind its prefix, {cidr} is meant', param, ctx)
        return cidr


class Several(click.ParamType[tuple[str, ...]]):
    """Values of one kind with commas between them."""

    name = "list"

    def __init__(self, one: click.ParamType[str]) -> None:
        self.one = one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not parts:
            self.fail("must not be empty", param, ctx)
        return tuple(self.one.convert(part, param, ctx) for part in parts)


class LabelList(click.ParamType[tuple[tuple[str, str], ...]]):
    """KEY=VALUE with commas between them; what they may be the control plane says."""

    name = "labels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, str], ...]:
        if isinstance(value, tuple):
            return value
        labels: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in str(value).split(","))):
            key, equals, text = part.partition("=")
            if not equals or not key:
                self.fail(f'"{part}" must be KEY=VALUE', param, ctx)
            if key in labels:
                self.fail(f'"{key}" is there twice', param, ctx)
            labels[key] = text
        return tuple(labels.items())


def log_format_option(function: F) -> F:
    form = click.Choice(["auto", "json", "console"])
    return click.option(
        "--log-format", type=form, default="auto", show_default=True, help="auto: console on a terminal, else JSON."
    )(function)


class EtcdEndpoint(click.ParamType[str]):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).rstrip("/")
        scheme, _, target = text.partition("://")
        parts = split_port(target)
        if scheme not in ("http", "https") or "/" in target or parts is None:
            self.fail(f'"{value}" must be http://{FORM}', param, ctx)
        return f"{scheme}://{with_port(*parts)}"


def log_format(choice: str) -> str:
    return choice if choice != "auto" else "console" if sys.stderr.isatty() else "json"
