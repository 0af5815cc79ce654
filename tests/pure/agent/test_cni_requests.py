"""What a runtime sends, and the results in the form of each version."""

from typing import Any

import pytest

from kilim.agent.cni import spec
from kilim.agent.cni.requests import decode_request
from kilim.agent.cni.results import check_prev_result, make_result
from kilim.agent.cni.spec import CniError
from kilim.agent.core.link import PodLink
from kilim.model.address import parse_ip

ENVIRONMENT = {"CONTAINERID": "4f1c", "NETNS": "/n", "IFNAME": "eth0", "ARGS": ""}
IPV4, IPV6 = parse_ip("10.61.1.2"), parse_ip("fd00:10:61:1::2")
NODE_IPS = (parse_ip("192.0.2.1"), parse_ip("2001:db8::1"))


def link(*ips: int) -> PodLink:
    return PodLink("shop", "db", "4f1c", 7, "eth0", "/n", ips, NODE_IPS, 1500, 1450)


LINK = link(IPV4)


def request(environment: dict[str, str] | None = None, **config: Any) -> Any:
    return decode_request(
        {
            "command": "ADD",
            "environment": ENVIRONMENT | (environment or {}),
            "config": {"cniVersion": "1.1.0", "name": "kilim", **config},
        }
    )


def test_a_pod_of_kubernetes() -> None:
    decoded = request({"ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db;K8S_POD_UID="})
    assert decoded.key == "shop/db" and decoded.labels is None and decoded.ips == ()


def test_without_kubernetes_the_container_names_the_pod() -> None:
    assert request().key == "default/4f1c"


def test_labels_and_address() -> None:
    decoded = request(
        args={"cni": {"labels": [{"key": "app", "value": "db"}, {"key": "x"}]}},
        runtimeConfig={"ips": ["10.61.1.9/24"]},
    )
    assert decoded.labels == {"app": "db", "x": ""} and decoded.ips == (parse_ip("10.61.1.9"),)


@pytest.mark.parametrize(
    ("config", "code", "message"),
    [
        ({"args": {"cni": {"labels": {"app": "db"}}}}, spec.INVALID_CONFIG, "args.cni.labels"),
        ({"args": []}, spec.INVALID_CONFIG, "args"),
        ({"runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}, spec.UNSUPPORTED_FIELD, "runtimeConfig.ips"),
        (
            {"runtimeConfig": {"ips": ["10.0.0.1", "fd00::1", "fd00::2"]}},
            spec.UNSUPPORTED_FIELD,
            "one address of a family",
        ),
        ({"runtimeConfig": {"ips": ["10.0.0.1", "fd00::g"]}}, spec.INVALID_CONFIG, "runtimeConfig.ips[1]"),
        ({"runtimeConfig": {"ips": ["fd00::1/129"]}}, spec.INVALID_CONFIG, "runtimeConfig.ips[0]"),
        ({"runtimeConfig": {"ips": ["::ffff:10.0.0.1"]}}, spec.INVALID_CONFIG, "runtimeConfig.ips[0]"),
        ({"runtimeConfig": {"ips": [7]}}, spec.INVALID_CONFIG, "runtimeConfig.ips"),
        ({"args": {"cni": {"ips": "10.0.0.1"}}}, spec.INVALID_CONFIG, "args.cni.ips"),
        ({"prevResult": 7}, spec.INVALID_CONFIG, "prevResult"),
        ({"cni.dev/valid-attachments": 7}, spec.INVALID_CONFIG, "valid-attachments"),
    ],
)
def test_complaints_name_field_and_rule(config: dict[str, Any], code: int, message: str) -> None:
    with pytest.raises(CniError) as raised:
        request(**config)
    assert raised.value.code == code and message in raised.value.message


def test_arguments_that_are_none() -> None:
    with pytest.raises(CniError, match="CNI_ARGS"):
        request({"ARGS": "K8S_POD_NAME"})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["fd00:10:61:1::9", "10.61.1.9"], ("10.61.1.9", "fd00:10:61:1::9")),
        (["FD00:10:61:1:0::9/64"], ("fd00:10:61:1::9",)),
    ],
)
def test_addresses_of_both_families_in_any_order_and_form(asked: list[str], expected: tuple[str, ...]) -> None:
    assert request(runtimeConfig={"ips": asked}).ips == tuple(map(parse_ip, expected))


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_results_by_version(version: str) -> None:
    result = make_result(request(cniVersion=version), LINK)
    assert result["cniVersion"] == version
    assert result["ips"][0]["address"] == "10.61.1.2/32" and result["ips"][0]["interface"] == 1
    assert ("version" in result["ips"][0]) == version.startswith("0.")
    assert ("mtu" in result["interfaces"][1]) == (version == "1.1.0")
    check_prev_result(request(cniVersion=version, prevResult=result), LINK)


@pytest.mark.parametrize("version", spec.VERSIONS)
@pytest.mark.parametrize("ips", [(IPV6,), (IPV4, IPV6)])
def test_results_with_ipv6(version: str, ips: tuple[int, ...]) -> None:
    result = make_result(request(cniVersion=version), link(*ips))
    last, route = result["ips"][-1], result["routes"][-1]
    assert len(result["ips"]) == len(result["routes"]) == len(ips)
    assert last["address"] == "fd00:10:61:1::2/128" and last["gateway"] == "fe80::1" and last["interface"] == 1
    assert route["dst"] == "::/0" and route["gw"] == "fe80::1"
    assert last.get("version") == ("6" if version.startswith("0.") else None)
    check_prev_result(request(cniVersion=version, prevResult=result), link(*ips))


def test_check_wants_the_addresses_of_both_families() -> None:
    result = make_result(request(), LINK)
    with pytest.raises(CniError, match="fd00:10:61:1::2/128, not 10.61.1.2/32"):
        check_prev_result(request(prevResult=result), link(IPV4, IPV6))


def test_the_result_of_a_plugin_before_us_is_kept() -> None:
    before = {
        "interfaces": [{"name": "other0"}],
        "ips": [{"address": "10.9.9.9/24", "interface": 0}],
        "dns": {"domain": "x"},
    }
    result = make_result(request(prevResult=before), LINK)
    assert [each["name"] for each in result["interfaces"]] == ["other0", LINK.name, "eth0"]
    assert [each["address"] for each in result["ips"]] == ["10.9.9.9/24", "10.61.1.2/32"]
    assert result["ips"][1]["interface"] == 2 and result["dns"] == {"domain": "x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interfaces": []}, "has no eth0"),
        ({"ips": [{"address": "10.61.1.3/32", "interface": 1}]}, "not 10.61.1.3/32"),
        ({"interfaces": [{}, {"name": "eth0", "sandbox": "/n", "mac": "00:00:00:00:00:01"}]}, "MAC"),
    ],
)
def test_check_compares(change: dict[str, Any], message: str) -> None:
    result = make_result(request(), LINK) | change
    with pytest.raises(CniError, match=message):
        check_prev_result(request(prevResult=result), LINK)
