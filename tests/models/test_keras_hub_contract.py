"""KerasHub's own tests of layers, backbones, tasks and presets, run on our classes."""

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="KerasHub's TestCase needs TensorFlow")
pytest.importorskip("grain", reason="KerasHub's TestCase needs grain")

from keras_hub.src.tests.test_case import TestCase

from keras_speechssm import layers
from keras_speechssm.models import GriffinBackbone, SpeechSSM, SpeechTransformer

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="the same on each backend"),
    # KerasHub feeds tf.data.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SIZES = {
    "vocabulary_size": 11,
    "num_layers": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "num_heads": 2,
    "attention_window": 4,
    "block_pattern": ("recurrent", "attention"),
}


class LayerTest(TestCase):
    """Serialization, build, symbolic and eager call, training step."""

    def check(self, cls, init_kwargs, num_weights, **options):
        self.run_layer_test(
            cls=cls,
            init_kwargs=init_kwargs,
            input_data=np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32"),
            expected_output_shape=(2, 6, 8),
            expected_num_trainable_weights=num_weights,
            # Gates and norms are float32 in any policy, which KerasHub's test does not expect.
            run_precision_checks=False,
            **options,
        )

    def test_rms_normalization(self):
        self.check(layers.RMSNormalization, {}, 1)

    def test_temporal_conv(self):
        self.check(layers.TemporalConv1D, {"width": 3}, 2)

    def test_rg_lru(self):
        self.check(layers.RGLRU, {"width": 8, "num_heads": 2}, 5)

    def test_local_attention(self):
        sizes = {"hidden_dim": 8, "num_heads": 2, "attention_window": 3}
        self.check(layers.LocalMultiQueryAttention, sizes, 5)

    def test_gated_mlp(self):
        self.check(layers.GatedMLP, {"intermediate_dim": 12}, 6)

    def test_griffin_block(self):
        sizes = {"hidden_dim": 8, "intermediate_dim": 12, "num_heads": 2}
        self.check(layers.GriffinBlock, {"block_type": "recurrent", **sizes}, 21)

    def test_conformer_block(self):
        sizes = {"hidden_dim": 8, "num_heads": 2, "intermediate_dim": 12}
        self.check(layers.ConformerBlock, sizes, 33, expected_num_non_trainable_variables=0)


class ModelTest(TestCase):
    """Serialization, eager and compiled calls, `tf.data`, dtypes, quantization, presets."""

    @pytest.mark.slow_to_compile
    def test_backbone(self):
        self.run_backbone_test(
            cls=GriffinBackbone,
            init_kwargs=dict(SIZES),
            input_data={
                "token_ids": np.ones((2, 6), "int32"),
                "padding_mask": np.ones((2, 6), bool),
                "reset_mask": np.zeros((2, 6), bool),
            },
            expected_output_shape=(2, 6, 8),
            # Gates and the recurrent state are float32 in any policy.
            run_mixed_precision_check=False,
        )

    def test_task_serialization(self):
        task = SpeechSSM(GriffinBackbone(**SIZES))
        self.run_serialization_test(task)
        assert task.predict(np.ones((2, 6), "int32"), verbose=0).shape == (2, 6, 11)

    def test_configuration_presets(self):
        for cls in (SpeechSSM, SpeechTransformer, GriffinBackbone):
            assert cls.presets
            with pytest.raises(ValueError, match="Unknown preset 'clowntown'"):
                cls.from_preset("clowntown")

    @pytest.mark.slow
    def test_demo_preset(self):
        self.run_preset_test(
            cls=SpeechSSM,
            preset="speech_ssm_demo_en",
            input_data=np.ones((1, 4), "int32"),
            expected_output_shape=(1, 4, 64),
        )
