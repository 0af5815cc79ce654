"""What a long replay leaves behind, given back: it allocates in a moment what would stay as long as the process."""

import ctypes
import gc


def settle_memory() -> None:
    """Some 100 ms with 100,000 endpoints, so: once, when the log has been replayed."""
    gc.collect()
    gc.freeze()  # what lives as long as we do need not be looked at by every collection
    ctypes.CDLL(None).malloc_trim(0)
