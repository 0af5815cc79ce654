"""The numbers that say to connections whether what they remember of `subjects` and `endpoints`, and of `ipcache`, is so
still."""

import os

import numpy as np

from kilim.agent.bpf.maps import Map

NODE, WIRE = 0, 1  # as in bpf/lib/policy.h
_MOST = 0xFFFFFFFF


class Epoch:
    """Another one from the start on, as rows may have changed while nobody was there to say so. Easy to get wrong: 0
    means that there is none, and one that was in use before must not come again soon, also where the map is new.

    Where processors read out of order a program may read the number of a change and then rows of before it, until a
    grace period is over (`syscall.wait_for_programs`). So each change is followed by one more number after that."""

    def __init__(self, epoch: Map, of: int) -> None:
        self._map = epoch
        self._key = np.full(1, of, epoch.key_dtype)
        held = epoch.get(self._key)
        self.value = int(held[0]) if held is not None else 0
        self.settled = False  # nothing has changed since the last grace period
        if not self.value:
            self.value = int.from_bytes(os.urandom(4), "little")
        self.advance()

    def advance(self) -> None:
        """After the rows are written. Raises OSError."""
        self.settled = False
        self.value = self.value % _MOST + 1
        self._map.update(self._key, np.array([self.value], self._map.value_dtype))

    def settle(self, seen: int) -> None:
        """After a grace period, before which the number was `seen`. Raises OSError."""
        was_last = self.value == seen
        self.advance()
        self.settled = was_last
