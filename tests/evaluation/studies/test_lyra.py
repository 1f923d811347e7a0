import shutil

import pytest
from shared_data import shared_folder

from keras_speechssm.evaluation.studies.lyra import evaluate_lyra_conversion

pytestmark = pytest.mark.any_backend


def test_the_converted_codec_is_near_the_graphs(tmp_path):
    pytest.importorskip("tensorflow")
    folder = shared_folder("lyra")
    shutil.copy(folder / "sample1_16kHz.wav", tmp_path)
    found = evaluate_lyra_conversion(folder, [tmp_path])
    assert found["num_recordings"] == 1 and len(found["equal_codes"]) == 16
    # The rest is the graphs' rounding to 8 bits.
    assert found["decoder_snr_db"] >= 25.0
    assert found["equal_codes"][0] >= 0.95
