"""A rank's signs of life: what it does, since when, and whether it waits for others. A watchdog outside reads them.

The signs lie in shared memory, so that they cost nanoseconds, and a process that is stopped or hangs still shows its
last one. The first sign that says what is done ends the start-up.
"""

from __future__ import annotations

import mmap
import os
import struct

_HEADER = struct.Struct("<QBH")  # how many signs so far, whether it waits for others, length of the text
_PAGE_BYTES = 4096
_MOST_BYTES = 1024

_page: mmap.mmap | None = None
_count = 0
_text = b""


def open_page() -> int:
    """Make the shared page of this process and return its descriptor, for the watchdog to inherit."""
    global _page, _count, _text
    descriptor = os.memfd_create("hpc_ae-heartbeat", 0)
    os.ftruncate(descriptor, _PAGE_BYTES)
    _page, _count, _text = mmap.mmap(descriptor, _PAGE_BYTES), 0, b""
    return descriptor


def beat(doing: str | None = None) -> None:
    """Say that this rank lives and what it does now; None: what it did before, one more of it."""
    global _text
    if doing is not None:
        _text = doing.encode()[:_MOST_BYTES]
    _write(waits=False)


def wait_for_others() -> None:
    """Say that this rank can go on only when others have come as far."""
    _write(waits=True)


def _write(*, waits: bool) -> None:
    global _count
    if _page is None or not _text:
        return
    _count += 1
    _page[_HEADER.size : _HEADER.size + len(_text)] = _text
    _page[: _HEADER.size] = _HEADER.pack(_count, waits, len(_text))


class Signs:
    """The watchdog's side of a page."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, _PAGE_BYTES, prot=mmap.PROT_READ)

    def read(self) -> tuple[int, bool, str]:
        """(number of the newest sign, 0 where none is expected; whether the rank waits for others; what it does)."""
        count, waits, length = _HEADER.unpack(self._page[: _HEADER.size])
        text = self._page[_HEADER.size : _HEADER.size + min(length, _MOST_BYTES)]
        return count, bool(waits), text.decode(errors="replace")
