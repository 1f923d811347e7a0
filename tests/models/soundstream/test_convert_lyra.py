import numpy as np
import pytest
from keras import ops
from shared_data import shared_folder

from keras_speechssm.cli import main
from keras_speechssm.layers.causal_conv import CausalConv1D, CausalConv1DTranspose
from keras_speechssm.models import SoundStream
from keras_speechssm.models.soundstream import convert_lyra as lyra
from keras_speechssm.models.soundstream.convert_lyra import (
    convert_lyra,
    open_interpreter,
    read_convolutions,
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A TFLite file of a grouped, a depthwise and a transposed convolution of two groups."""
    tensorflow = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)
    kernels = [
        rng.normal(size=shape).astype("float32")
        for shape in ((3, 1, 2, 6), (3, 1, 6, 1), (4, 1, 2, 3), (4, 1, 2, 3))
    ]
    biases = [rng.normal(size=size).astype("float32") for size in (6, 6, 2, 2)]

    @tensorflow.function(input_signature=[tensorflow.TensorSpec((1, 8, 1, 4), "float32")])
    def convolve(x):
        x = tensorflow.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))
        x = tensorflow.nn.conv2d(x, kernels[0], (1, 2, 1, 1), "VALID") + biases[0]
        y = tensorflow.pad(x, ((0, 0), (2, 0), (0, 0), (0, 0)))
        y = tensorflow.nn.depthwise_conv2d(y, kernels[1], (1, 1, 1, 1), "VALID") + biases[1]
        parts = [
            tensorflow.nn.conv2d_transpose(part, kernel, (1, 10, 1, 2), (1, 2, 1, 1), "VALID")
            + bias
            for part, kernel, bias in zip(
                tensorflow.split(y, 2, axis=3), kernels[2:], biases[2:], strict=True
            )
        ]
        return tensorflow.concat(parts, axis=3)

    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
        [convolve.get_concrete_function()], convolve
    )
    path = tmp_path_factory.mktemp("lyra") / "graph.tflite"
    path.write_bytes(converter.convert())
    return path


def test_convolutions_of_a_file_become_layers_that_compute_the_same(graph):
    found = lyra._join_groups(read_convolutions(graph))
    kinds = ["convolution", "depthwise", "transposed"]
    assert [group[0].kind for group in found] == kinds and len(found[2]) == 2
    x = np.random.default_rng(1).normal(size=(1, 8, 4)).astype("float32")
    interpreter = open_interpreter(graph)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:, :, None])
    interpreter.invoke()
    expected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[:, :8, 0]
    y = ops.convert_to_tensor(x)
    layers = [CausalConv1D(6, 3, 2), CausalConv1D(6, 3, depthwise=True)]
    for group, layer in zip(found, [*layers, CausalConv1DTranspose(4, 4, 2)], strict=True):
        layer.build(y.shape)
        layer.set_weights(lyra._weights(group[0].kind, group, pointwise=False))
        y = layer(y)
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, atol=1e-5)


def test_files_that_are_missing_or_others_are_refused(graph, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"soundstream_encoder\.tflite is missing"):
        convert_lyra(tmp_path)
    with pytest.raises(ValueError, match=r"must be in 1 \.\. 46, got 47"):
        convert_lyra(tmp_path, num_quantizers=47)
    (tmp_path / lyra.ENCODER).write_bytes(b"no graph at all")
    with pytest.raises(ValueError, match="is not a TFLite file"):
        convert_lyra(tmp_path)
    (tmp_path / lyra.ENCODER).write_bytes(graph.read_bytes())
    assert main(["convert", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "its layers differ" in capsys.readouterr().err
    assert main(["convert", str(tmp_path), "-o", "out", "--to", "hugging-face"]) == 2
    assert "Lyra can only be converted to keras" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lyra_s_own_files_become_a_preset(tmp_path):
    from keras_speechssm.audio.io import read_audio

    pytest.importorskip("tensorflow")
    folder = shared_folder("lyra")
    assert main(["convert", str(folder), "-o", str(tmp_path / "lyra")]) == 0
    codec = SoundStream.from_preset(str(tmp_path / "lyra"))
    assert (codec.num_quantizers, codec.codebook_size, codec.samples_per_frame) == (16, 16, 320)
    waveform = read_audio(folder / "sample1_16kHz.wav")
    tokens = codec.encode(waveform)
    decoded = codec.decode(tokens)[: len(waveform)]
    # Speech comes back: Lyra's own graphs give 5.1 dB here.
    noise = np.sum((decoded - waveform) ** 2)
    assert 10 * np.log10(np.sum(waveform**2) / noise) > 4.0
