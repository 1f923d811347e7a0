"""The same training on one device and on eight, which JAX simulates on a CPU."""

import json
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_speechssm.data.token_store import write_token_store
from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig, train_speech_lm

pytestmark = pytest.mark.any_backend

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution on JAX")

TRAIN = """
import json, sys
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig, train_speech_lm

folder, run, *mesh = sys.argv[1:]
sizes = dict(num_layers=3, hidden_dim=16, intermediate_dim=32, num_heads=2, attention_window=8)
config = SpeechLMTrainingConfig(
    token_folders=[folder], output_dir=run, validation_folders=[folder], model_config=sizes,
    sequence_length=16,
    batch_size=8, gradient_accumulation_steps=1, total_steps=15, steps_per_epoch=5,
    warmup_steps=5, learning_rate=1e-2, weight_decay=0.01, validation_steps=2,
    device_mesh=[int(size) for size in mesh] or None,
)
model = train_speech_lm(config)
kernel = model.backbone.griffin_blocks[0].mlp_block.gate_dense.kernel.value
shard = kernel.addressable_shards[0].data.shape
lines = read_metrics(run + "/metrics.jsonl")
print(json.dumps([[[line["loss"], line["val_loss"]] for line in lines], shard]))
"""


def train(folder, run, mesh=()):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", TRAIN, str(folder), str(run), *map(str, mesh)]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    losses, shard = json.loads(result.stdout.splitlines()[-1])
    return np.array(losses), tuple(shard)


@pytest.fixture
def tokens(tmp_path):
    recordings = {str(number): (np.arange(80) + number) % 8 for number in range(4)}
    write_token_store(tmp_path / "tokens", recordings, 8)
    return tmp_path / "tokens"


@on_jax
@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(tokens, tmp_path):
    one, whole = train(tokens, tmp_path / "one")
    assert one[-1, 0] < 0.8 * one[0, 0]
    for mesh, shard in (((8,), (16, 32)), ((4, 2), (4, 16))):
        found, part = train(tokens, tmp_path / str(mesh), mesh)
        np.testing.assert_allclose(found, one, rtol=2e-4)
        assert whole == (16, 32) and part == shard


def test_validation_that_devices_cannot_share_is_refused_before_the_run(tokens, tmp_path):
    write_token_store(tmp_path / "few", {"0": np.arange(80) % 8}, 8)
    options = dict(sequence_length=16, batch_size=8, device_mesh=[4])
    with pytest.raises(ValueError, match="validation_folders give 5 rows .* 4 devices cannot"):
        train_speech_lm(
            SpeechLMTrainingConfig(
                token_folders=[tokens],
                output_dir=tmp_path / "run",
                validation_folders=[tmp_path / "few"],
                **options,
            )
        )
    assert not (tmp_path / "run").exists()


@on_jax
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tokens, tmp_path):
    one, _ = train(tokens, tmp_path / "one")
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    # As if it had been killed in the third epoch.
    for name in ("checkpoints/epoch-00003", "best/epoch-00003"):
        (tmp_path / "one" / name / "checkpoint.json").unlink(missing_ok=True)
    assert len(lines) == 3
    again, _ = train(tokens, tmp_path / "one", (4, 2))
    np.testing.assert_allclose(again, one, rtol=2e-4)


HOST = """
import sys
import jax, keras, numpy as np

process, num_processes, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if num_processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(address, num_processes, process)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
from keras_speechssm.data import PackedSequences
from keras_speechssm.models import GriffinBackbone, SpeechSSM

keras.utils.set_random_seed(0)
streams = [(np.arange(80) + number) % 8 for number in range(4)]
rows = PackedSequences.from_arrays(streams, 16)
dataset = rows.dataset(8, process=process, num_processes=num_processes)
config = dict(num_layers=3, hidden_dim=16, intermediate_dim=32, num_heads=2, attention_window=8)
model = SpeechSSM(GriffinBackbone(vocabulary_size=8, **config))
model.compile(keras.optimizers.Adam(1e-2), weighted_metrics=[])
history = model.fit(dataset, epochs=3, shuffle=False, verbose=0).history
print(*history["loss"])
"""


@on_jax
@pytest.mark.slow
def test_two_hosts_give_the_losses_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}

    def start(*arguments):
        command = [sys.executable, "-c", HOST, *map(str, arguments), address]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    processes = [start(0, 2), start(1, 2), start(0, 1)]
    outputs = [process.communicate(timeout=300)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    first, second, alone = (np.array(output[-3:], float) for output in outputs)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone, rtol=1e-4)
