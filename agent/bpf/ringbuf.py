"""The ring buffer of records, read in batches through shared memory (6 M records a second; by callbacks a tenth of it).

    offset 0              consumer position, ours to write
    offset 4096           producer position
    offset 8192           data, mapped twice in a row, so that a record never wraps
Each record: u32 length with two flag bits, u32 page offset, struct event.
"""

import mmap
import os

import numpy as np

from kilim.agent.bpf import syscall
from kilim.agent.records import EVENT, Events

_BUSY = np.uint32(1 << 31)
_PAGE = mmap.PAGESIZE
_RECORD = np.dtype([("header", "=u4"), ("page_offset", "=u4"), ("event", EVENT)])


class RingReader:
    """The one reader of a ring. `fd` becomes readable when the datapath has written as much as its settings say; below
    that, read on a timer."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._size = syscall.map_info(fd).max_entries
        self._consumer_page = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._data_pages = mmap.mmap(fd, _PAGE + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._producer = np.frombuffer(self._data_pages, np.uint64, 1)

    def read(self, max_records: int = 65536) -> Events:
        """What has been written since the last call, oldest first; a copy."""
        consumer, producer = int(self._consumer[0]), int(self._producer[0])
        waiting = min((producer - consumer) // _RECORD.itemsize, max_records)
        offset = _PAGE + (consumer & (self._size - 1))
        records = np.frombuffer(self._data_pages, _RECORD, waiting, offset)
        busy = np.flatnonzero(records["header"] & _BUSY)
        if len(busy):
            records = records[: busy[0]]
        events: Events = records["event"].copy()
        # Last: from here on the datapath may overwrite what was read.
        self._consumer[0] = consumer + len(records) * _RECORD.itemsize
        return events

    def close(self) -> None:
        del self._consumer, self._producer
        self._consumer_page.close()
        self._data_pages.close()
        os.close(self.fd)
