"""What belongs to which lab is told by names alone."""

import pytest

from kilim.lab.errors import BadInput
from kilim.lab.names import checked_lab_name, fabric_port, lab_names_of, netns_name, netns_prefix, pod_role


def test_one_lab_never_takes_the_namespaces_of_another() -> None:
    files = [netns_name("a", "node1"), netns_name("a-b", "node1"), netns_name("a", pod_role("b", "node1")), "other"]
    assert lab_names_of(files) == {"a", "a-b"}
    assert [file for file in files if file.startswith(netns_prefix("a"))] == [files[0], files[2]]


def test_two_pods_never_share_a_namespace() -> None:
    assert pod_role("a-b", "c") != pod_role("a", "b-c")
    long = "n" * 63
    roles = [pod_role(long, "p" * 252 + end) for end in "ab"]
    files = {netns_name("lab", role) for role in roles}
    assert len(files) == 2 and all(len(file) <= 255 for file in files)


def test_a_link_name_fits_the_kernel() -> None:
    assert fabric_port("node1") == "node1"
    ports = {fabric_port("ext-a-long-name-of-a-host-" + end) for end in "ab"}
    assert len(ports) == 2 and all(len(port) <= 15 for port in ports)


@pytest.mark.parametrize("name", ["", "A", "a--b", "-a", "a-", "a/b", "a.b", "x" * 33])
def test_a_lab_name_that_cannot_be(name: str) -> None:
    with pytest.raises(BadInput):
        checked_lab_name(name)
