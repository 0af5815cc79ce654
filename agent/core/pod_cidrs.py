"""Pod CIDRs as the log has them. PURE."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from kilim.model.address import Cidr, parse_cidr


def readable(texts: Iterable[str]) -> Iterator[Cidr]:
    """Without what a control plane of another version may have written that is none: the others must go on."""
    for text in texts:
        with suppress(ValueError):
            yield parse_cidr(text)
