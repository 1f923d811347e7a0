import mmap
from pathlib import Path

import pytest

from keras_speechssm.benchmarks.measurement import peak_memory_mib, resident_memory_mib

pytestmark = pytest.mark.any_backend


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="this system does not tell")
def test_memory_follows_what_is_held():
    # Pages of its own: an array may come out of what the allocator kept from earlier tests.
    before = resident_memory_mib()
    size = 40 * 2**20
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size, mmap.PAGESIZE):
        held[page] = 1
    with_pages = resident_memory_mib()
    held.close()
    assert 35 < with_pages - before < 60
    assert peak_memory_mib() >= 0.99 * with_pages
    assert with_pages - resident_memory_mib() > 35
