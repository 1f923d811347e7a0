"""The same training on one device, on eight that JAX simulates on a CPU, and in two processes."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import python_processes
from python_processes import free_address, start_python

from keras_speechssm.data.token_store import write_token_store
from keras_speechssm.models import GriffinBackbone
from keras_speechssm.training import distribution
from keras_speechssm.training.distribution import (
    AXES,
    MeshDistribution,
    batch_shards,
    conformer_layout_map,
    join_processes,
    parse_device_mesh,
    take_rows,
)
from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig, train_speech_lm

pytestmark = pytest.mark.any_backend

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution on JAX")

TRAIN = """
import json, sys
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None  # as the command: it takes long
import keras
from keras_speechssm.training.callbacks import read_metrics
from keras_speechssm.training.speech_lm import SpeechLMTrainingConfig, train_speech_lm

folder, *runs = sys.argv[1:]
sizes = dict(num_layers=3, hidden_dim=16, intermediate_dim=32, num_heads=2, attention_window=8)
for options in map(json.loads, runs):
    keras.backend.clear_session()
    config = SpeechLMTrainingConfig(
        token_folders=[folder], validation_folders=[folder], model_config=sizes,
        sequence_length=16, batch_size=8, gradient_accumulation_steps=1, steps_per_epoch=5,
        warmup_steps=5, learning_rate=1e-2, weight_decay=0.01, validation_steps=2,
        ema_momentum=0.5, **options,
    )
    model = train_speech_lm(config)
    kernel = model.backbone.griffin_blocks[0].mlp_block.gate_dense.kernel.value
    lines = read_metrics(config.output_dir + "/metrics.jsonl")
    losses = [[line["loss"], line["val_loss"]] for line in lines]
    print(json.dumps([losses, kernel.addressable_shards[0].data.shape]))
"""


MAX_SECONDS = 1200
"""A process that takes longer hangs, even on a busy machine."""

kill_what_is_left = python_processes.kill_what_is_left


def finish(process):
    out, err = process.communicate(timeout=MAX_SECONDS)
    assert process.returncode == 0, err[-3000:]
    lines = (line for line in out.splitlines() if not line.startswith("[Gloo]"))
    return [json.loads(line) for line in lines if line.startswith(("[", "{"))]


def options_of(folder, mesh=None, total_steps=15, **options):
    common = {"output_dir": str(folder), "device_mesh": mesh, "total_steps": total_steps}
    return json.dumps({**common, **options})


@pytest.fixture
def tokens(tmp_path):
    recordings = {str(number): (np.arange(80) + number) % 8 for number in range(4)}
    write_token_store(tmp_path / "tokens", recordings, 8)
    return tmp_path / "tokens"


@on_jax
@pytest.mark.slow
def test_any_mesh_gives_the_losses_of_one_device_and_resumes_on_another(tokens, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    runs = [
        options_of(tmp_path / "one", total_steps=10),
        options_of(tmp_path / "data", [8], total_steps=10),
        options_of(tmp_path / "mesh", "data=2,fsdp=2,model=2", total_steps=10),
        options_of(tmp_path / "one"),  # one file after one file
        options_of(tmp_path / "data", [2, 2]),  # 8 devices, then 4
        options_of(tmp_path / "mesh"),  # 8 devices, then 1
    ]
    found = finish(start_python(TRAIN, tokens, *runs, devices=8))
    shards = [tuple(shard) for _, shard in found]
    assert shards == [(16, 32), (16, 32), (8, 16), (16, 32), (8, 16), (16, 32)]
    losses = [np.array(lines) for lines, _ in found]
    assert losses[3].shape == (3, 2) and losses[3][-1, 0] < 0.8 * losses[3][0, 0]
    for other in losses[1:3]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)
    for other in losses[4:]:
        np.testing.assert_allclose(other, losses[3], rtol=1e-5)
    # One device first, then a mesh: the checkpoint in one file is read.
    (again,) = finish(
        start_python(
            TRAIN, tokens, options_of(tmp_path / "one", "fsdp=4", total_steps=20), devices=8
        )
    )
    assert tuple(again[1]) == (4, 32) and len(again[0]) == 4
    np.testing.assert_allclose(again[0][:3], losses[3], rtol=1e-5)


@on_jax
@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_resume_in_one(tokens, tmp_path):
    pytest.importorskip("orbax.checkpoint")

    def start_process(number, address):
        cluster = {"coordinator": address, "num_processes": 2, "process_id": number}
        options = options_of(tmp_path / "two", "data=2,fsdp=2,model=2", 10, **cluster)
        return start_python(TRAIN, tokens, options, devices=4)

    address = free_address()
    processes = [start_process(number, address) for number in range(2)]
    alone = options_of(tmp_path / "alone", total_steps=10), options_of(tmp_path / "alone")
    one, whole = finish(start_python(TRAIN, tokens, *alone, devices=8))
    first, second = (finish(process)[0] for process in processes)
    assert first == second and tuple(first[1]) == (8, 16)
    np.testing.assert_allclose(first[0], one[0], rtol=1e-5)
    assert (tmp_path / "two" / "preset" / "model.weights.h5").is_file()
    (resumed,) = finish(
        start_python(TRAIN, tokens, options_of(tmp_path / "two", "data=4,fsdp=2"), devices=8)
    )
    np.testing.assert_allclose(resumed[0], whole[0], rtol=1e-5)


OTHERS = """
import json
import keras
import keras_hub
import numpy as np
from tiny_models import tiny_gemma, tiny_models
from keras_speechssm.models import SpeechTransformer
from keras_speechssm.models.semantic_tokenizer.semantic_tokenizer_pretraining import (
    SemanticTokenizerPretraining,
)
from keras_speechssm.training.adversarial import AdversarialCodec, Discriminators
from keras_speechssm.training.codec import compile_codec
from keras_speechssm.training.distribution import conformer_layout_map, distributed
from keras_speechssm.training.soundstorm import compile_soundstorm
from keras_speechssm.training.tokenizer import compile_tokenizer, phoneme_outputs

rng = np.random.default_rng(0)
waveform = (0.1 * rng.normal(size=(8, 3200))).astype("float32")
labels = np.zeros((8, 2, 5), "int32")
labels[:, 0, 0] = 1
storm = {
    "semantic_tokens": rng.integers(0, 12, (8, 5)),
    "acoustic_tokens": rng.integers(0, 16, (8, 10, 2)),
    "level": np.zeros(8, "int32"),
    "padding_mask": np.ones((8, 10), bool),
}
codes = rng.integers(0, 16, (8, 10))

def gemma_layout_map(mesh):
    return keras_hub.models.GemmaBackbone.get_layout_map(mesh, "model", "fsdp")

LAYOUTS = {"codec": None, "transformer": gemma_layout_map}

def losses(kind, mesh):
    keras.backend.clear_session()
    with distributed(mesh, LAYOUTS.get(kind, conformer_layout_map), 8):
        tokenizer, _, soundstorm, codec = tiny_models()
        if kind == "soundstorm":
            model, x, y = soundstorm, storm, codes
            compile_soundstorm(model)
        elif kind == "tokenizer":
            model = SemanticTokenizerPretraining(tokenizer, masked_codebook_size=8, seed=0)
            x = {"waveform": waveform, "padding_mask": np.ones((8, 5), bool)}
            y = {name: labels for name in phoneme_outputs(model)}
            compile_tokenizer(model)
        elif kind == "transformer":
            keras.utils.set_random_seed(0)
            model, x, y = SpeechTransformer(tiny_gemma(), max_length=16), codes % 12, codes % 12
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(1e-2), loss, weighted_metrics=None)
        else:
            model, x, y = AdversarialCodec(codec, Discriminators(2)), waveform, waveform
            model.build((None, 3200))
            compile_codec(model, False)
        found = [float(model.train_on_batch(x, y, return_dict=True)["loss"]) for _ in range(3)]
        shares = {len(v.value.sharding.device_set) for v in model.trainable_variables}
        split = sum(not v.value.sharding.is_fully_replicated for v in model.trainable_variables)
    return found, split, max(shares)

for kind, mesh in (
    ("soundstorm", "data=2,fsdp=2,model=2"),
    ("tokenizer", "data=2,fsdp=2,model=2"),
    ("transformer", "data=2,fsdp=2,model=2"),
    ("codec", "data=4,fsdp=2"),
):
    print(json.dumps([kind, losses(kind, None), losses(kind, mesh)]))
"""


@on_jax
@pytest.mark.slow
def test_the_other_models_train_on_a_mesh_too():
    for kind, (one, _, _), (many, split, devices) in finish(start_python(OTHERS, devices=8)):
        np.testing.assert_allclose(many, one, rtol=1e-4, err_msg=kind)
        assert devices == 8 and split > 5, kind


TRAFFIC = r"""
import json, re, sys
import jax
import keras
import numpy as np
from keras_speechssm.models import GriffinBackbone, SpeechSSM
from keras_speechssm.training.distribution import distributed

vocabulary, *meshes = json.loads(sys.argv[1])
batch, time, width = 8, 256, 32
layout = lambda mesh: GriffinBackbone.get_layout_map(mesh, "model", "fsdp")
x = np.random.default_rng(0).integers(0, vocabulary, (batch, time)).astype("int32")

def run(mesh):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    with distributed(mesh, layout, batch):
        model = SpeechSSM(GriffinBackbone(vocabulary, 3, width, 96, 2, attention_window=16))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, weighted_metrics=None)
        model.optimizer.build(model.trainable_variables)
        tokens = x
        if mesh is not None:
            place = keras.distribution.distribution().get_data_layout((batch, time)).backend_layout
            tokens = jax.device_put(x, place)
        groups = (
            model.trainable_variables, model.non_trainable_variables, model.optimizer.variables,
            model.metrics_variables,
        )
        state = tuple([v.value for v in group] for group in groups)
        step = jax.jit(model.train_step, donate_argnums=0)
        compiled = step.lower(state, (tokens, tokens)).compile()
        loss = float(compiled(state, (tokens, tokens))[0]["loss"])
    weights = int(sum(np.prod(v.shape) for v in model.trainable_variables))
    return compiled.as_text(), loss, weights

def count(shape):
    return int(np.prod([int(n) for n in shape.split(",")]))

for mesh in meshes:
    text, loss, weights = run(mesh)
    sizes = {}
    for line in text.splitlines():
        kinds = "all-gather|all-reduce|all-to-all|collective-permute"
        found = re.search(rf" = (.*?) ({kinds})(-start)?\(", line)
        if found:
            elements = map(count, re.findall(r"\w\d+\[([\d,]+)\]", found[1]))
            sizes.setdefault(found[2], []).extend(elements)
    largest = max(map(count, re.findall(r"f32\[([\d,]+)\]", text)))
    print(json.dumps({"loss": loss, "weights": weights, "largest": largest, "sizes": sizes}))
"""


@on_jax
@pytest.mark.slow
def test_fully_sharded_training_gathers_weights_and_no_activations():
    """The residual stream of the whole batch has 65,536 numbers, the largest weight 3,072."""
    (found,) = finish(start_python(TRAFFIC, json.dumps([64, "fsdp=8"]), devices=8))
    sizes = found["sizes"]
    assert sizes["all-gather"], sizes
    for kind, elements in sizes.items():
        assert max(elements) <= 3072, (kind, sorted(elements)[-5:])
    # Each weight is gathered for the forward and the backward pass, each gradient reduced once.
    assert sum(map(sum, sizes.values())) <= 1.5 * 3 * found["weights"]


@on_jax
@pytest.mark.slow
def test_chunks_of_a_large_vocabulary_are_split_by_examples():
    """A chunk has 1,376 ids: 44,032 weights, 352,256 logits on each of 8 devices."""
    meshes = [None, "fsdp=8", "data=2,fsdp=2,model=2"]
    one, fsdp, mesh = finish(start_python(TRAFFIC, json.dumps([4128, *meshes]), devices=8))
    for found in (fsdp, mesh):
        np.testing.assert_allclose(found["loss"], one["loss"], rtol=1e-6)
        assert found["largest"] <= 352256
    for kind, elements in fsdp["sizes"].items():
        assert max(elements) <= 44032, (kind, sorted(elements)[-5:])


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


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([8], (8, 1, 1)),
        ([8, 1], (1, 8, 1)),
        ([4, 2], (1, 4, 2)),
        ("8", (8, 1, 1)),
        ("data=8,fsdp=2,model=1", (8, 2, 1)),
        (["model=2", "data=4"], (4, 1, 2)),
    ],
)
def test_a_mesh_has_names_or_numbers(given, sizes):
    assert parse_device_mesh(given) == dict(zip(AXES, sizes, strict=True))
    assert batch_shards(given) == sizes[0] * sizes[1]


@pytest.mark.parametrize(
    "given",
    [
        "",
        [],
        [1, 2, 3],
        [0],
        [-1],
        "data=0",
        "rows=2",
        "data",
        "data=2,data=4",
        "data=x",
        "8,fsdp=2",
    ],
)
def test_other_meshes_are_refused_before_anything_is_read(given):
    with pytest.raises(ValueError, match="device_mesh is .*expected sizes above 0, such as 'data"):
        SpeechLMTrainingConfig(token_folders=["x"], output_dir="x", device_mesh=given)
    assert parse_device_mesh(None) is None and batch_shards(None) == 1


def layouts_of(layout_map, sizes, shapes):
    mesh = keras.distribution.DeviceMesh(sizes, AXES, ["cpu:0"] * int(np.prod(sizes)))
    planned = MeshDistribution(layout_map(mesh))
    variables = (SimpleNamespace(path=path, shape=shape) for path, shape in shapes.items())
    return [tuple(planned.get_variable_layout(variable).axes) for variable in variables]


def test_weights_are_split_where_axes_divide_them():
    def griffin(mesh):
        return GriffinBackbone.get_layout_map(mesh, "model", "fsdp")

    shapes = {
        "griffin_block_0/mlp_block/gate_dense/kernel": (16, 32),
        "griffin_block_1/mlp_block/gate_dense/kernel": (16, 33),  # 2 does not divide 33
        "griffin_block_0/mlp_block/gate_dense/lora_kernel_a": (16, 4),
        "griffin_block_0/temporal_pre_norm/scale": (16,),
    }
    expected = [("fsdp", "model"), ("fsdp", None), ("fsdp", None), (None,)]
    assert layouts_of(griffin, (2, 4, 2), shapes) == expected
    shapes = {
        "conformer_block_3/attention/query_dense/kernel": (8, 2, 4),
        "encoder_0/first_output/kernel": (12, 8),
        "encoder_0_unit_0/mixing/kernel": (6, 6),  # 4 does not divide 6
        "level_heads/kernel": (6, 8, 16),
        "seed_generator/seed_generator_state": (2,),
    }
    expected = [("fsdp", "model", None), ("model", "fsdp"), (None, None), (None, None, "fsdp")]
    assert layouts_of(conformer_layout_map, (1, 4, 2), shapes) == [*expected, (None,)]


@pytest.mark.parametrize(
    ("path", "is_split"),
    [
        ("speech_ssm/griffin_backbone/griffin_block_0/output", True),
        ("token_embedding/output", True),
        ("soundstorm/conformer_block_1/output", True),
        ("encoder_0_unit_0/output", True),
        ("token_embedding/logits", True),
        ("griffin_block_0/mlp_block/gate_dense/output", False),
    ],
)
def test_residual_streams_are_split_by_examples(path, is_split):
    mesh = keras.distribution.DeviceMesh((1, 1, 1), AXES, ["cpu:0"])
    planned = MeshDistribution(keras.distribution.LayoutMap(mesh))
    assert (planned.get_tensor_layout(path) is not None) == is_split


def test_rows_of_nested_batches():
    batch = ({"x": np.arange(8), "none": None}, np.arange(16).reshape(8, 2))
    (taken, y) = take_rows(batch, np.array([2, 3]))
    assert (
        taken["x"].tolist() == [2, 3] and taken["none"] is None and y.tolist() == [[4, 5], [6, 7]]
    )
    assert take_rows(batch, None) is batch


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "MASTER_ADDR": "a"}, None),
        (
            {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "a", "MASTER_PORT": "12"},
            (("a:12", 4, 3), {}),
        ),
        (
            {
                "WORLD_SIZE": "4",
                "RANK": "3",
                "MASTER_ADDR": "a",
                "LOCAL_WORLD_SIZE": "2",
                "LOCAL_RANK": "1",
            },
            (("a:29500", 4, 3), {"local_device_ids": [1]}),
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "b:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            (("b:1", 2, 0), {}),
        ),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ((None, None, None), {})),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ((None, None, None), {})),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, ((None, None, None), {})),
    ],
)
def test_the_environment_tells_how_many_processes_there_are(environment, expected):
    assert distribution._read_environment(environment) == expected


@pytest.mark.parametrize(
    "given",
    [("host:1", None, None), ("host", 2, 0), ("host:1", 2, 2), ("host:1", 2, -1), (None, 2, 0)],
)
def test_half_of_a_cluster_is_refused(given):
    with pytest.raises(ValueError, match="coordinator is .*expected the host:port of process 0"):
        join_processes(*given)


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
# 24 rows: what does not fill a batch of all processes would be left out.
streams = [(np.arange(96) + number) % 8 for number in range(4)]
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
def test_two_hosts_with_a_script_give_the_losses_of_one():
    address = free_address()
    arguments = [(0, 2), (1, 2), (0, 1)]
    processes = [start_python(HOST, *numbers, address) for numbers in arguments]
    outputs = [process.communicate(timeout=MAX_SECONDS)[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    first, second, alone = (np.array(output[-3:], float) for output in outputs)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone, rtol=1e-4)
