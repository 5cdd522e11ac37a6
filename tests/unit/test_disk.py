"""What is asked of the disk, and of the C library, before an environment is opened."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from multiraft.disk import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def transaction():
    values = [bytearray(b"x" * 262_144) for _ in range(5)]

if sys.argv[1] == "keep":
    keep_freed_memory()
transaction()
before = faults()
for _ in range(20):
    transaction()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc adjusts its threshold")
def test_memory_that_a_transaction_frees_is_there_for_the_next_one() -> None:
    def count(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert count("keep") * 10 < count("as it is")
