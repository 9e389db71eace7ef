"""Freed memory is kept for the next layer, and given back when asked for."""

import platform
import subprocess
import sys

import pytest

KEPT = """
import psutil
from core.models.heap import keep_freed_memory, return_freed_memory

def resident():
    return psutil.Process().memory_info().rss / 1e6

keep_freed_memory()
begin = resident()
blocks = [bytearray(20_000_000) for _ in range(10)]
last = bytearray(1_000_000)  # above them, so that they do not lie at the end of the heap
del blocks
print(resident() - begin)
return_freed_memory()
print(resident() - begin)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    run = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    kept, returned = map(float, run.stdout.split())
    assert kept > 180, "MB"
    assert returned < 30
