"""Training steps of the paper's models as programs for TPUs; see `tpu_programs`."""

import functools
from collections.abc import Callable

import jax
import keras

from keras_speechssm.benchmarks.tpu_shapes import (
    EACH,
    SPLIT,
    WINDOW_TOKENS,
    UncompiledSpeechSSM,
    abstract,
    changed_sizes,
    placed,
    shape,
)
from keras_speechssm.semantic import SemanticTokenizer
from keras_speechssm.shapes import FRAMES_PER_TOKEN, SAMPLE_RATE, SAMPLES_PER_TOKEN
from keras_speechssm.soundstorm.soundstorm import SoundStorm
from keras_speechssm.soundstream import SoundStream
from keras_speechssm.speech_lm.griffin_backbone import GriffinBackbone
from keras_speechssm.training.adversarial import AdversarialCodec
from keras_speechssm.training.codec import compile_codec
from keras_speechssm.training.discriminators import Discriminators
from keras_speechssm.training.soundstorm import compile_soundstorm
from keras_speechssm.training.speech_lm import make_optimizer
from keras_speechssm.training.tokenizer import compile_tokenizer


def speech_lm_program(task: dict, mesh):
    """Forward, loss, gradients and AdamW, the blocks computed again in the backward pass."""
    optimizer = make_optimizer()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sizes = changed_sizes(task, "mixed_bfloat16")
    blocks = [f"griffin_block_{number}" for number in range(sizes["num_layers"])]
    with abstract(), keras.RematScope("list_of_layers", layer_names=blocks):
        model = UncompiledSpeechSSM(GriffinBackbone(**sizes))
        optimizer.build(model.trainable_variables)

    # By hand: XLA does not partition the recurrence's kernel on TPU (jax-ml/jax#38196).
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(EACH, EACH, SPLIT, SPLIT),
        out_specs=EACH,
        check_vma=False,
    )
    def step(weights, moments, tokens, targets):
        def loss_of(weights):
            logits, _ = model.stateless_call(weights, [], {"token_ids": tokens}, training=True)
            return loss(targets, logits)

        with abstract():
            value, gradients = jax.lax.pmean(jax.value_and_grad(loss_of)(weights), "batch")
            return value, *optimizer.stateless_apply(moments, gradients, weights)

    state = placed(mesh, (model.trainable_variables, optimizer.variables))
    tokens = jax.ShapeDtypeStruct((task["batch_size"], task["length"]), "int32")
    tokens = placed(mesh, tokens, SPLIT)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted, (*state, tokens, tokens), model.count_params()


def _fit_program(mesh, make_model: Callable, compile_model: Callable, data: tuple):
    """A step of Keras' own `fit`, its batch shared out over the chips."""
    with abstract():
        model = make_model()
    compile_model(model)
    with abstract():
        model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=data)
    state = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    jitted = jax.jit(model.train_step, donate_argnums=0)
    arguments = placed(mesh, state), placed(mesh, data, SPLIT)
    return jitted, arguments, model.count_params()


def soundstorm_program(task: dict, mesh):
    config = changed_sizes(task, "mixed_bfloat16")
    frames = (task["batch_size"], WINDOW_TOKENS * FRAMES_PER_TOKEN)
    inputs = {
        "semantic_tokens": shape(task["batch_size"], WINDOW_TOKENS, dtype="int32"),
        "acoustic_tokens": shape(*frames, config["num_levels"], dtype="int32"),
        "level": shape(task["batch_size"], dtype="int32"),
        "padding_mask": shape(*frames, dtype="bool"),
    }
    data = inputs, shape(*frames, dtype="int32"), shape(*frames)
    return _fit_program(mesh, lambda: SoundStorm(**config), compile_soundstorm, data)


def tokenizer_program(task: dict, mesh):
    config, time = changed_sizes(task, "mixed_bfloat16"), (task["batch_size"], WINDOW_TOKENS)
    inputs = {
        "waveform": shape(time[0], time[1] * SAMPLES_PER_TOKEN),
        "padding_mask": shape(*time, dtype="bool"),
    }
    labels = {"phoneme_logits": shape(time[0], 2, time[1], dtype="int32")}
    model = functools.partial(SemanticTokenizer, **config)
    return _fit_program(mesh, model, compile_tokenizer, (inputs, labels))


def codec_program(task: dict, mesh):
    crops = shape(task["batch_size"], SAMPLE_RATE)

    def make_model():
        codec = SoundStream(**changed_sizes(task, "mixed_bfloat16"))
        model = AdversarialCodec(codec, Discriminators())
        model.build_on(SAMPLE_RATE)
        return model

    compile_model = functools.partial(compile_codec, has_pitch=False)
    return _fit_program(mesh, make_model, compile_model, (crops, crops))
