"""Memory of the running process."""

import os
import resource
import sys
from pathlib import Path


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    # Linux counts KiB, macOS bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_memory_mib() -> float | None:
    """Memory that is resident now; `None` where the system does not tell."""
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        return None
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
