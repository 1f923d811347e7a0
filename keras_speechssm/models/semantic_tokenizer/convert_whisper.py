"""Weights of a trained Whisper for the tokenizer's front end."""

import struct
from pathlib import Path

import numpy as np
from keras import ops

from keras_speechssm.checks import first_line
from keras_speechssm.models.semantic_tokenizer.whisper_encoder import WhisperEncoder
from keras_speechssm.models.semantic_tokenizer.whisper_frames import WhisperFrames

_DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_HEAD_SIZE = 64  # of every Whisper


def load_whisper_frames(source: str | Path, train_encoder: bool = False) -> WhisperFrames:
    """Build the front end of a tokenizer with the encoder of a trained Whisper.

    Args:
        source: a CTranslate2 folder of Whisper or its `model.bin` in float32 or float16, or
            the name, folder, or handle of a KerasHub preset, such as `"whisper_tiny_en"`.
        train_encoder: bool. Whether the encoder learns too. Defaults to `False`.

    Raises:
        ValueError: The source is not a Whisper that can be read.

    Example:

    ```python
    from keras_speechssm.models import SemanticTokenizer
    from keras_speechssm.models.semantic_tokenizer.convert_whisper import load_whisper_frames

    front_end = load_whisper_frames("whisper_tiny_en")
    tokenizer = SemanticTokenizer(128, 1, 1, 192, 4, 512, 41, front_end=front_end)
    ```
    """
    path = Path(source)
    if path.is_dir() and (path / "model.bin").is_file():
        path = path / "model.bin"
    arrays = read_ctranslate2(path) if path.is_file() else _from_keras_hub(str(source))
    try:
        positions = arrays["position_encodings/encodings"]
        kernel = arrays["conv1/weight"]
        inner = arrays["layer_0/ffn/linear_0/weight"]
    except KeyError as error:
        raise ValueError(
            f"{str(source)!r} has no encoder of Whisper: {error} is missing."
        ) from None
    hidden_dim = kernel.shape[0]
    front_end = WhisperFrames(
        num_layers=sum(name.endswith("/ffn/linear_0/weight") for name in arrays),
        num_heads=hidden_dim // _HEAD_SIZE,
        hidden_dim=hidden_dim,
        intermediate_dim=inner.shape[0],
        num_mels=kernel.shape[1],
        max_length=positions.shape[0],
        train_encoder=train_encoder,
    )
    front_end.build((None, None))
    assign_whisper_encoder(front_end.encoder, arrays)
    return front_end


def read_ctranslate2(path: str | Path) -> dict[str, np.ndarray]:
    """Read the encoder's arrays from a CTranslate2 `model.bin`: name -> float32 array.

    The names are CTranslate2's without the leading `encoder/`.

    Raises:
        ValueError: The file is not a CTranslate2 model, or its weights are quantized.
    """
    data = Path(path).read_bytes()
    place = 0

    def take(size: int) -> bytes:
        nonlocal place
        if place + size > len(data):
            raise ValueError(f"{str(path)!r} is not a CTranslate2 model, or it is truncated.")
        place += size
        return data[place - size : place]

    def number(form: str) -> int:
        return struct.unpack(form, take(struct.calcsize(form)))[0]

    def text() -> str:
        return take(number("<H"))[:-1].decode("utf-8", "replace")

    number("<I")  # version of the format
    text()  # kind of model
    number("<I")  # its revision
    arrays = {}
    for _ in range(number("<I")):
        name = text()
        shape = [number("<I") for _ in range(number("<B"))]
        kind = number("<B")
        content = take(number("<I"))
        if not name.startswith("encoder/") or not shape:
            continue
        if kind not in (0, 4):
            raise ValueError(
                f"{str(path)!r} has quantized weights; convert Whisper with float16 or float32."
            )
        array = np.frombuffer(content, _DTYPES[kind]).reshape(shape)
        arrays[name.removeprefix("encoder/")] = array.astype("float32")
    return arrays


def assign_whisper_encoder(encoder: WhisperEncoder, arrays: dict[str, np.ndarray]) -> None:
    """Set the weights of `encoder` to arrays with the names and layouts of `read_ctranslate2`."""

    def dense(layer, name):
        layer.kernel.assign(arrays[f"{name}/weight"].T)
        layer.bias.assign(arrays[f"{name}/bias"])

    def norm(layer, name):
        layer.gamma.assign(arrays[f"{name}/gamma"])
        layer.beta.assign(arrays[f"{name}/beta"])

    convolutions = (encoder.first_convolution, encoder.second_convolution)
    for number, layer in enumerate(convolutions, start=1):
        layer.kernel.assign(arrays[f"conv{number}/weight"].transpose(2, 1, 0))
        layer.bias.assign(arrays[f"conv{number}/bias"])
    encoder.positions.assign(arrays["position_encodings/encodings"])
    for number, block in enumerate(encoder.blocks):
        attention, feedforward = f"layer_{number}/self_attention", f"layer_{number}/ffn"
        norm(block.attention_norm, f"{attention}/layer_norm")
        dense(block.attention_input, f"{attention}/linear_0")
        dense(block.attention_output, f"{attention}/linear_1")
        norm(block.feedforward_norm, f"{feedforward}/layer_norm")
        dense(block.feedforward_intermediate, f"{feedforward}/linear_0")
        dense(block.feedforward_output, f"{feedforward}/linear_1")
    norm(encoder.final_norm, "layer_norm")


def _from_keras_hub(source: str) -> dict[str, np.ndarray]:
    import keras_hub

    try:
        backbone = keras_hub.models.WhisperBackbone.from_preset(source)
    except Exception as error:  # each hub raises different errors
        raise ValueError(
            f"{source!r} is neither a CTranslate2 folder of Whisper nor a KerasHub preset of it: "
            f"{first_line(error)}"
        ) from error
    return arrays_of_backbone(backbone)


def arrays_of_backbone(backbone) -> dict[str, np.ndarray]:
    """Collect the encoder of a `keras_hub.models.WhisperBackbone` as `read_ctranslate2` does."""
    arrays, hidden_dim = {}, backbone.hidden_dim

    def put(name, weight, layout=lambda array: array):
        arrays[name] = layout(ops.convert_to_numpy(weight).astype("float32"))

    def norm(name, layer):
        put(f"{name}/gamma", layer.gamma)
        put(f"{name}/beta", layer.beta)

    convolutions = (backbone.encoder_conv_layer_1, backbone.encoder_conv_layer_2)
    for number, layer in enumerate(convolutions, start=1):
        put(f"conv{number}/weight", layer.kernel, lambda array: array.transpose(2, 1, 0))
        put(f"conv{number}/bias", layer.bias)
    table = backbone.encoder_position_embedding.position_embeddings
    put("position_encodings/encodings", table)
    for number, layer in enumerate(backbone.encoder_transformer_layers):
        attention, feedforward = f"layer_{number}/self_attention", f"layer_{number}/ffn"
        inner = layer._self_attention_layer
        inputs = (inner._query_dense, inner._key_dense, inner._value_dense)
        kernels = [ops.convert_to_numpy(d.kernel).reshape(hidden_dim, -1).T for d in inputs]
        # Whisper's keys have no bias.
        biases = [
            np.zeros(hidden_dim) if d.bias is None else ops.convert_to_numpy(d.bias).reshape(-1)
            for d in inputs
        ]
        arrays[f"{attention}/linear_0/weight"] = np.concatenate(kernels).astype("float32")
        arrays[f"{attention}/linear_0/bias"] = np.concatenate(biases).astype("float32")
        output = inner._output_dense
        put(f"{attention}/linear_1/weight", output.kernel, lambda a: a.reshape(-1, hidden_dim).T)
        put(f"{attention}/linear_1/bias", output.bias)
        norm(f"{attention}/layer_norm", layer._self_attention_layer_norm)
        for place, dense in enumerate(
            (layer._feedforward_intermediate_dense, layer._feedforward_output_dense)
        ):
            put(f"{feedforward}/linear_{place}/weight", dense.kernel, np.transpose)
            put(f"{feedforward}/linear_{place}/bias", dense.bias)
        norm(f"{feedforward}/layer_norm", layer._feedforward_layer_norm)
    norm("layer_norm", backbone.encoder_layer_norm)
    return arrays
