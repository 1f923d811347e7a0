from pathlib import Path

import numpy as np
import pytest

from keras_speechssm.process_memory import peak_memory_mib, resident_memory_mib


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="this system does not tell")
def test_memory_follows_what_is_held():
    before = resident_memory_mib()
    held = np.ones(40 * 2**20, "uint8")
    assert 35 < resident_memory_mib() - before < 60
    assert peak_memory_mib() >= 0.99 * resident_memory_mib()
    del held
    assert resident_memory_mib() - before < 20
    assert peak_memory_mib() > before + 35
