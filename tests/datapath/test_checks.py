"""Every check, on the model and in the kernel. A group is a test, so that thousands cost seconds."""

from collections import Counter
from typing import Any

import pytest

from tests.datapath.check import execute
from tests.datapath.checks import MASQUERADING, MODULES, all_checks
from tests.datapath.kernel import Kernel


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_model_and_kernel_do_as_the_checks_say(kernel: Kernel, module: Any) -> None:
    execute_all(kernel, module)


@pytest.mark.parametrize("module", MASQUERADING, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_a_node_that_masquerades(masquerading: Kernel, module: Any) -> None:
    execute_all(masquerading, module)


def execute_all(kernel: Kernel, module: Any) -> None:
    wrong = [f"{check.name}: {each}" for check in module.checks() for each in execute(check, kernel)]
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:10])


def test_checks_are_many_and_have_names_of_their_own() -> None:
    names = Counter(check.name for check in all_checks())
    assert [name for name, count in names.items() if count > 1] == []
    assert sum(names.values()) >= 300
