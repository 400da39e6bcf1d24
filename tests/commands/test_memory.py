import subprocess
import sys

import pytest

# 64 MiB are more than glibc keeps by itself.
SECOND_FILL = """
import resource
import numpy as np
from eqpool.commands.memory import keep_freed_memory

kept = {call}

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fill()
print(int(bool(kept)), fill())
"""


def second_fill(call):
    program = [sys.executable, "-c", SECOND_FILL.format(call=call)]
    return map(int, subprocess.run(program, capture_output=True, text=True, check=True).stdout.split())


def test_freed_memory_is_reused_without_page_faults():
    kept, faults = second_fill("keep_freed_memory()")
    if not kept:
        pytest.skip("this C library has no mallopt")
    _, faults_before = second_fill("False")
    assert faults < 0.1 * faults_before
