"""What `kilim get -o yaml` prints of every kind that can be applied is applied again without any change."""

from __future__ import annotations

from pathlib import Path

import pytest

from kilim.kvstore.embedded import EmbeddedEtcd
from tests.contract.cli.world import kilim
from tests.contract.controlplane.harness import replica
from tests.pure.policy.test_mutations import whole_manifests

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_is_printed_is_what_was_applied(etcd: EmbeddedEtcd, cluster: str, tmp_path: Path) -> None:
    manifests = [manifest for manifest, enforced in whole_manifests() if enforced]
    kinds = {manifest["kind"] for manifest in manifests}
    assert len(kinds) == 9
    async with replica(etcd.endpoints, cluster) as r:
        assert len((await r.apply(*manifests)).results) == len(manifests)
        seq = (await r.status()).seq
        for kind in sorted(kinds):
            status, printed, _ = await kilim("get", kind, "-A", "-o", "yaml", "--server", r.address)
            assert status == 0
            file = tmp_path / f"{kind}.yaml"
            file.write_text(printed)
            status, out, error = await kilim("apply", "-f", str(file), "--server", r.address)
            assert status == 0, error
            assert {line.rpartition(" ")[2] for line in out.splitlines()} == {"unchanged"}
        assert (await r.status()).seq == seq
