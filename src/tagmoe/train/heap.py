"""How the C library hands out the memory of training on a CPU.

glibc keeps small blocks in a heap and maps large ones, which go back to the system when they are freed. It raises the
border between the two up to 32 MB, so that nearly every tensor of a small run comes to lie in the heap. There
activations that are kept leave holes between them, which nothing fits into: a run then took up to 1.8 times what its
tensors take (docs/log.md).
"""

from __future__ import annotations

import ctypes
import os
import sys

MAPPED_BYTES = 4 << 20
"""Blocks of so many bytes are mapped. From 1 MB on a step of a TagWorld run took 4 to 7 % longer, from 4 MB on none."""
M_MMAP_THRESHOLD = -3
"""mallopt(3): the border, which is then no longer raised."""


def map_large_blocks() -> bool:
    """Fix the border of this process at `MAPPED_BYTES`, unless its environment sets it. Whether it could be done."""
    chosen = "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES) == 1
