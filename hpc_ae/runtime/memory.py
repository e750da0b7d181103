"""How this process takes memory from the system."""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MMAP_BYTES = 32 << 20  # the most that glibc takes
_KEPT_BYTES = 512 << 20


@cache
def keep_freed_memory() -> bool:
    """Let malloc use freed arrays again instead of handing them back: a pass over shards allocates the same sizes again
    and again, and the pages of new memory cost a sixth of its time. False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
