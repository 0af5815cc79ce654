"""`kilim log restore`: an exported log into an empty etcd.

Easy to get wrong: no control plane may run on that etcd before it is done; one that does waits until the log is whole.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kilim.cli.command import Command
from kilim.cli.flag_types import EtcdEndpoint, Several
from kilim.cli.history.options import in_words
from kilim.cli.output import output_option, print_data
from kilim.cli.progress import steps

if TYPE_CHECKING:
    from kilim.kvstore.head import LogHead
    from kilim.kvstore.segments import SegmentDirectory


@click.command(
    "restore",
    cls=Command,
    example="kilim log restore --segments /var/backups/kilim --etcd-endpoints http://192.0.2.1:2379",
)
@click.option(
    "--segments", "directories", required=True, multiple=True, metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What `kilim log export` wrote; several are read as one log.",
)  # fmt: skip
@click.option("--etcd-endpoints", required=True, type=Several(EtcdEndpoint()), metavar="URL,…", help="An empty etcd.")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster to be.")
@output_option("json", "yaml")
def restore(directories: tuple[Path, ...], etcd_endpoints: tuple[str, ...], cluster: str, output: str | None) -> None:
    """Put an exported log into an empty etcd.

    The same bytes, the same chain. Interrupted, it is run again; until it is at its end nobody can read or write that
    log.
    """
    in_words(lambda: _restore(directories, etcd_endpoints, cluster, output))


def _restore(directories: tuple[Path, ...], endpoints: tuple[str, ...], cluster: str, output: str | None) -> None:
    from kilim.cli.history.etcd import no_etcd
    from kilim.kvstore.errors import BeingRestored, Unavailable
    from kilim.kvstore.segments import SegmentDirectory

    segments = SegmentDirectory(directories)
    span = segments.span()
    try:
        head = asyncio.run(_put(endpoints, cluster, segments))
    except BeingRestored:
        raise
    except Unavailable as error:
        raise no_etcd(endpoints, error) from None
    done = {"first_seq": span.first_seq, "last_seq": head.last_seq, "chain": head.chain.hex(), "cluster": cluster}
    if output is not None:
        print_data(done, output)
    else:
        click.echo(
            f"restored events {span.first_seq} to {head.last_seq}, chain {head.chain.hex()}, as cluster {cluster}; "
            "start the control plane now"
        )


async def _put(endpoints: tuple[str, ...], cluster: str, segments: "SegmentDirectory") -> "LogHead":
    from kilim.kvstore.client import EtcdClient
    from kilim.kvstore.restore import restore as put_back

    client = EtcdClient(endpoints)
    try:
        with steps("restoring") as say:
            last = segments.span().last_seq
            return await put_back(client, cluster, segments, lambda seq: say(f"event {seq} of {last}"))
    finally:
        await client.close()
