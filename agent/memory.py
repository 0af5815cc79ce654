"""What a long replay leaves behind, given back: it allocates in a moment what would stay as long as the process."""

import ctypes
import gc


def settle_memory() -> None:
    """Some 100 ms with 100,000 endpoints, so: once for each start, when the log has been replayed."""
    gc.unfreeze()  # the agent before this one in the process, with its connections
    gc.collect()
    gc.freeze()  # what lives as long as we do need not be looked at by every collection
    ctypes.CDLL(None).malloc_trim(0)
