"""Weights of S3Gen from the published files."""

import re
from pathlib import Path

import numpy as np

from keras_speechssm.models.checkpoint_files import SafetensorsTensors
from keras_speechssm.models.checkpoint_weights import Target, assign_tensors

_FILES = (
    "s3gen_meanflow.safetensors",  # ResembleAI/chatterbox-turbo
    "s3gen.safetensors",  # ResembleAI/chatterbox
)
"""Published files. Each has the weights of `S3Tokenizer`, too."""

_HEAD_SIZE = 64  # of every S3Gen


class S3GenCheckpoint:
    """A checkpoint of S3Gen.

    Args:
        tensors: A reader of `checkpoint_files`.

    Attributes:
        config: Arguments of `S3Gen`.

    Raises:
        ValueError: If a tensor from which the sizes follow is missing or misshapen.
    """

    def __init__(self, tensors):
        self._tensors = tensors
        encoder, estimator = "flow.encoder", "flow.decoder.estimator"
        vocabulary_size, hidden_dim = self._shape("flow.input_embedding.weight", 2)
        num_heads, _ = self._shape(f"{encoder}.encoders.0.self_attn.pos_bias_u", 2)
        intermediate_dim, _ = self._shape(f"{encoder}.encoders.0.feed_forward.w_1.weight", 2)
        query = f"{estimator}.mid_blocks.0.1.0.attn1.to_q.weight"
        flow_heads, flow_channels = self._shape(query, 2)
        speaker = "speaker_encoder.xvector"
        self.config = {
            "vocabulary_size": vocabulary_size,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "num_layers": self._count(r"flow\.encoder\.encoders\.(\d+)\."),
            "num_upsampled_layers": self._count(r"flow\.encoder\.up_encoders\.(\d+)\."),
            "flow_channels": flow_channels,
            "flow_num_heads": flow_heads // _HEAD_SIZE,
            "flow_layers_per_stage": self._count(rf"{estimator}\.mid_blocks\.0\.1\.(\d+)\."),
            "flow_num_stages": self._count(rf"{estimator}\.mid_blocks\.(\d+)\."),
            "mean_flow": f"{estimator}.time_embed_mixer.weight" in tensors.names(),
            "vocoder_channels": self._shape("mel2wav.conv_pre.bias", 1)[0],
            "f0_channels": self._shape("mel2wav.f0_predictor.classifier.weight", 2)[1],
            "speaker_dim": self._shape(f"{speaker}.dense.linear.weight", 3)[0],
            "speaker_channels": self._shape(f"{speaker}.tdnn.linear.weight", 3)[0],
            "speaker_growth": self._shape(f"{speaker}.block1.tdnnd1.cam_layer.linear2.bias", 1)[0],
            "speaker_stack_sizes": tuple(
                self._count(rf"{speaker}\.block{i}\.tdnnd(\d+)\.") - 1 for i in (1, 2, 3)
            ),
        }

    def assign(self, model) -> None:
        """Sets the weights of an `S3Gen` of this config.

        Raises:
            ValueError: If a tensor is missing, unexpected or has another shape; the message names
                it.
        """
        names = self._tensors.names()
        ignored = {name for name in names if name.endswith(".num_batches_tracked")}
        ignored |= {name for name in names if name.startswith("tokenizer.")}
        affine: dict[str, Target] = {}
        _dense(affine, "flow.spk_embed_affine_layer", model.speaker_dense)
        targets = {
            **encoder_targets(model.encoder),
            **estimator_targets(model.estimator),
            **affine,
            **vocoder_targets(model.vocoder, self._tensors),
            **speaker_encoder_targets(model.speaker_encoder),
        }
        assign_tensors(self._tensors, targets, ignored=ignored)

    def _shape(self, name: str, num_axes: int) -> tuple[int, ...]:
        if name not in self._tensors.names():
            raise ValueError(
                f"{self._tensors.place}: missing tensor {name}. The file is of another model, or "
                "incomplete."
            )
        shape = tuple(self._tensors.shape(name))
        if len(shape) != num_axes:
            raise ValueError(
                f"{self._tensors.place}: the tensor {name!r} has shape {shape}; expected "
                f"{num_axes} axes. The file is of another model, or damaged."
            )
        return shape

    def _count(self, pattern: str) -> int:
        """One more than the largest number in the names that start with a pattern."""
        found = (re.match(pattern, name) for name in self._tensors.names())
        return 1 + max((int(match[1]) for match in found if match), default=-1)


def open_s3_gen(folder: str | Path) -> S3GenCheckpoint | None:
    """Open the S3Gen in a folder; return `None` if there is none.

    Args:
        folder: The folder of `s3gen.safetensors` (Chatterbox) or `s3gen_meanflow.safetensors`
            (Chatterbox Turbo, the faster one, which is preferred).

    Raises:
        ValueError: If the file is damaged, or a tensor is missing or misshapen.
    """
    folder = Path(folder)
    for name in _FILES:
        if (folder / name).is_file():
            return S3GenCheckpoint(SafetensorsTensors(folder, name))
    return None


def speaker_encoder_targets(encoder, place: str = "speaker_encoder") -> dict[str, Target]:
    """Returns the tensors of a `CAMPlusPlus`.

    Args:
        encoder: The layer, built.
        place: Beginning of the tensors' names.
    """
    targets: dict[str, Target] = {}
    head, body = f"{place}.head", f"{place}.xvector"

    def image(name, layer):
        shape = tuple(layer.kernel.shape)[::-1]
        # Ours has frequencies first, as PyTorch's.
        shape = (shape[0], shape[1], shape[3], shape[2])
        targets[f"{name}.weight"] = Target(
            layer.kernel, shape, lambda x: np.transpose(x, (2, 3, 1, 0))
        )

    image(f"{head}.conv1", encoder.first_convolution)
    _normalization(targets, f"{head}.bn1", encoder.first_norm)
    for i, unit in enumerate(encoder.units):
        name = f"{head}.layer{i // 2 + 1}.{i % 2}"
        image(f"{name}.conv1", unit.first_convolution)
        _normalization(targets, f"{name}.bn1", unit.first_norm)
        image(f"{name}.conv2", unit.second_convolution)
        _normalization(targets, f"{name}.bn2", unit.second_norm)
        if unit.shortcut is not None:
            image(f"{name}.shortcut.0", unit.shortcut)
            _normalization(targets, f"{name}.shortcut.1", unit.shortcut_norm)
    image(f"{head}.conv2", encoder.last_convolution)
    _normalization(targets, f"{head}.bn2", encoder.last_norm)
    _convolution(targets, f"{body}.tdnn.linear", encoder.time_convolution)
    _normalization(targets, f"{body}.tdnn.nonlinear.batchnorm", encoder.time_norm)
    for i, stack in enumerate(encoder.stacks, start=1):
        for j, layer in enumerate(stack, start=1):
            name = f"{body}.block{i}.tdnnd{j}"
            _normalization(targets, f"{name}.nonlinear1.batchnorm", layer.input_norm)
            _convolution(targets, f"{name}.linear1", layer.bottleneck)
            _normalization(targets, f"{name}.nonlinear2.batchnorm", layer.bottleneck_norm)
            _convolution(targets, f"{name}.cam_layer.linear_local", layer.local)
            _convolution(targets, f"{name}.cam_layer.linear1", layer.context_intermediate)
            _convolution(targets, f"{name}.cam_layer.linear2", layer.context_output)
        name = f"{body}.transit{i}"
        _normalization(targets, f"{name}.nonlinear.batchnorm", encoder.transition_norms[i - 1])
        _convolution(targets, f"{name}.linear", encoder.transitions[i - 1])
    _normalization(targets, f"{body}.out_nonlinear.batchnorm", encoder.output_norm)
    _convolution(targets, f"{body}.dense.linear", encoder.embedding_dense)
    _normalization(targets, f"{body}.dense.nonlinear.batchnorm", encoder.embedding_norm)
    return targets


def vocoder_targets(vocoder, tensors, place: str = "mel2wav") -> dict[str, Target]:
    """Returns the tensors of a `HiFTVocoder`.

    Args:
        vocoder: The layer, built.
        tensors: A reader of `checkpoint_files`. Kernels are stored as length and direction.
        place: Beginning of the tensors' names.
    """
    targets: dict[str, Target] = {}

    def scaled(name, variable, shape, to_keras=np.transpose, bias=None):
        length, direction = (
            f"{place}.{name}.parametrizations.weight.original{i}" for i in range(2)
        )

        def convert(kernel):
            norms = np.sqrt(np.sum(np.square(kernel), axis=(1, 2), keepdims=True))
            return to_keras(np.asarray(tensors.read(length), "float32") * kernel / norms)

        targets[length] = Target(None, (shape[0], 1, 1))
        targets[direction] = Target(variable, shape, convert)
        targets[f"{place}.{name}.bias"] = Target(bias)

    def convolution(name, layer):
        kernel = layer.kernel
        scaled(name, kernel, tuple(kernel.shape)[::-1], bias=layer.bias)

    def unit(name, layer):
        for i, pair in enumerate(zip(layer.dilated, layer.plain, strict=True)):
            for j, part in enumerate(pair):
                convolution(f"{name}.convs{j + 1}.{i}", part)
                alpha = f"{place}.{name}.activations{j + 1}.{i}.alpha"
                targets[alpha] = Target(layer.alphas[2 * i + j])

    for i, layer in enumerate(vocoder.f0_convolutions):
        convolution(f"f0_predictor.condnet.{2 * i}", layer)
    _dense(targets, f"{place}.f0_predictor.classifier", vocoder.f0_dense)
    _dense(targets, f"{place}.m_source.l_linear", vocoder.source_dense)
    convolution("conv_pre", vocoder.input_convolution)
    for i, layer in enumerate(vocoder.upsamplings):
        shape = (layer.kernel.shape[0], layer.filters, layer.kernel_size)
        scaled(
            f"ups.{i}",
            layer.kernel,
            shape,
            lambda x: x.transpose(0, 2, 1).reshape(len(x), -1),
            bias=layer.bias,
        )
        _convolution(targets, f"{place}.source_downs.{i}", vocoder.source_convolutions[i])
        unit(f"source_resblocks.{i}", vocoder.source_units[i])
        for j, part in enumerate(vocoder.units[i]):
            unit(f"resblocks.{len(vocoder.units[i]) * i + j}", part)
    convolution("conv_post", vocoder.output_convolution)
    return targets


def encoder_targets(encoder, place: str = "flow") -> dict[str, Target]:
    """Returns the tensors of an `S3GenEncoder`.

    Args:
        encoder: The layer, built.
        place: Beginning of the tensors' names.
    """
    targets: dict[str, Target] = {}
    table = encoder.token_embedding.embeddings
    targets[f"{place}.input_embedding.weight"] = Target(table, tuple(table.shape), np.asarray)
    _dense(targets, f"{place}.encoder_proj", encoder.output_dense)
    place = f"{place}.encoder"
    _dense(targets, f"{place}.embed.out.0", encoder.input_dense)
    _layer_norm(targets, f"{place}.embed.out.1", encoder.input_norm)
    _convolution(targets, f"{place}.pre_lookahead_layer.conv1", encoder.lookahead_convolution)
    _convolution(targets, f"{place}.pre_lookahead_layer.conv2", encoder.causal_convolution)
    _convolution(targets, f"{place}.up_layer.conv", encoder.upsampled_convolution)
    _dense(targets, f"{place}.up_embed.out.0", encoder.upsampled_dense)
    _layer_norm(targets, f"{place}.up_embed.out.1", encoder.upsampled_norm)
    _layer_norm(targets, f"{place}.after_norm", encoder.output_norm)
    for group, blocks in (("encoders", encoder.blocks), ("up_encoders", encoder.upsampled_blocks)):
        for i, block in enumerate(blocks):
            name = f"{place}.{group}.{i}"
            _layer_norm(targets, f"{name}.norm_mha", block.attention_norm)
            for letter, layer in (
                ("q", block.query_dense),
                ("k", block.key_dense),
                ("v", block.value_dense),
                ("pos", block.position_dense),
                ("out", block.output_dense),
            ):
                _dense(targets, f"{name}.self_attn.linear_{letter}", layer)
            for letter, bias in (("u", block.content_bias), ("v", block.position_bias)):
                shape = tuple(bias.shape)
                targets[f"{name}.self_attn.pos_bias_{letter}"] = Target(bias, shape, np.asarray)
            _layer_norm(targets, f"{name}.norm_ff", block.feedforward_norm)
            _dense(targets, f"{name}.feed_forward.w_1", block.feedforward_intermediate)
            _dense(targets, f"{name}.feed_forward.w_2", block.feedforward_output)
    return targets


def estimator_targets(estimator, place: str = "flow.decoder.estimator") -> dict[str, Target]:
    """Returns the tensors of a `FlowEstimator`.

    Args:
        estimator: The layer, built.
        place: Beginning of the tensors' names.
    """
    targets: dict[str, Target] = {}

    def block(name, layer):
        _convolution(targets, f"{name}.block.0", layer.convolution)
        _layer_norm(targets, f"{name}.block.2", layer.norm)

    _dense(targets, f"{place}.time_mlp.linear_1", estimator.time_intermediate)
    _dense(targets, f"{place}.time_mlp.linear_2", estimator.time_output)
    if estimator.mean_flow:
        _dense(targets, f"{place}.time_embed_mixer", estimator.time_mixer)
    names = [f"mid_blocks.{i}" for i in range(estimator.num_middle_stages)]
    names = ["down_blocks.0", *names, "up_blocks.0"]
    for name, (unit, *layers) in zip(names, estimator.stages, strict=True):
        name = f"{place}.{name}"
        block(f"{name}.0.block1", unit.first)
        _dense(targets, f"{name}.0.mlp.1", unit.time_dense)
        block(f"{name}.0.block2", unit.second)
        _convolution(targets, f"{name}.0.res_conv", unit.shortcut)
        for i, layer in enumerate(layers):
            part = f"{name}.1.{i}"
            _layer_norm(targets, f"{part}.norm1", layer.attention_norm)
            _dense(targets, f"{part}.attn1.to_q", layer.query_dense)
            _dense(targets, f"{part}.attn1.to_k", layer.key_dense)
            _dense(targets, f"{part}.attn1.to_v", layer.value_dense)
            _dense(targets, f"{part}.attn1.to_out.0", layer.output_dense)
            _layer_norm(targets, f"{part}.norm3", layer.feedforward_norm)
            _dense(targets, f"{part}.ff.net.0.proj", layer.feedforward_intermediate)
            _dense(targets, f"{part}.ff.net.2", layer.feedforward_output)
    _convolution(targets, f"{place}.down_blocks.0.2", estimator.first_convolution)
    _convolution(targets, f"{place}.up_blocks.0.2", estimator.last_convolution)
    block(f"{place}.final_block", estimator.output_block)
    _convolution(targets, f"{place}.final_proj", estimator.output_dense)
    return targets


def _dense(targets, name: str, layer) -> None:
    targets[f"{name}.weight"] = Target(layer.kernel)
    if layer.bias is not None:
        targets[f"{name}.bias"] = Target(layer.bias)


def _layer_norm(targets, name: str, layer) -> None:
    targets[f"{name}.weight"] = Target(layer.gamma)
    targets[f"{name}.bias"] = Target(layer.beta)


def _convolution(targets, name: str, layer) -> None:
    """A one-dimensional convolution; ours of one tap is a dense layer."""
    kernel = layer.kernel
    if len(kernel.shape) == 2:
        shape = (*tuple(kernel.shape)[::-1], 1)
        targets[f"{name}.weight"] = Target(kernel, shape, lambda x: x[..., 0].T)
    else:
        targets[f"{name}.weight"] = Target(kernel)
    if layer.bias is not None:
        targets[f"{name}.bias"] = Target(layer.bias)


def _normalization(targets, name: str, layer) -> None:
    """A batch normalization with its statistics."""
    if layer.center:
        targets[f"{name}.weight"] = Target(layer.gamma)
        targets[f"{name}.bias"] = Target(layer.beta)
    targets[f"{name}.running_mean"] = Target(layer.moving_mean)
    targets[f"{name}.running_var"] = Target(layer.moving_variance)
