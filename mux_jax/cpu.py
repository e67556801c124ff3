"""What the CPU of this machine can do."""

import functools
import pathlib


@functools.cache
def has_bfloat16() -> bool:
    """Whether it has products of bfloat16, which are faster than those of float32: AVX512-BF16 or AMX, under Linux."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
