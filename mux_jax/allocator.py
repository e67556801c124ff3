"""The host's memory allocator, tuned for JAX on CPU."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks for the next step instead of returning them to the kernel.

    XLA's CPU backend allocates its temporaries, hundreds of megabytes, anew for each step. By
    default glibc maps and unmaps them, and the kernel zeroes every page again: a third of the time
    of a small model's step. Call it before the first use of a JAX device; it does nothing where JAX
    will run on an accelerator, or without glibc.

    Two arenas: with more, blocks freed in one are not found from another; with one, the threads of
    `tokenizers` wait for each other, and take three times as long.
    """
    if platform.libc_ver()[0] != "glibc" or not _on_cpu():
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_ARENA_MAX, 2)


def _on_cpu() -> bool:
    """Whether JAX will run on CPU, found without starting it."""
    chosen = os.environ.get("JAX_PLATFORMS")
    if chosen:
        return chosen == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None
