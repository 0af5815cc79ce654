"""How an etcd of ours keeps its store small enough: an embedded one and the members of a lab alike."""

QUOTA_BYTES = 8 << 30


def store_flags(quota_bytes: int = QUOTA_BYTES) -> tuple[str, ...]:
    return (
        f"--quota-backend-bytes={quota_bytes}",
        # Every append rewrites `head`; nobody needs old revisions for longer than a lost watch takes to come back.
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=5m",
        "--snapshot-count=10000",
    )
