"""TFLite files: running them, and reading their convolutions' weights as float32.

Needs the package `ai-edge-litert` (extra `lyra`).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_KINDS = {
    "CONV_2D": "convolution",
    "DEPTHWISE_CONV_2D": "depthwise",
    "TRANSPOSE_CONV": "transposed",
}


class Convolution(NamedTuple):
    """One convolution of a graph.

    Attributes:
        kind: `"convolution"`, `"depthwise"` or `"transposed"`.
        kernel: float32 as TFLite has it: (outputs, time, 1, inputs of a group), depthwise
            (1, time, 1, channels).
        bias: float32 (outputs,).
        num_inputs: channels that go in, of all groups together.
    """

    kind: str
    kernel: np.ndarray
    bias: np.ndarray
    num_inputs: int


def open_interpreter(path: Path) -> Any:
    """The `ai_edge_litert` interpreter of a TFLite file."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(_existing(path)))


def read_convolutions(path: Path) -> list[Convolution]:
    """All convolutions of the first graph of a file, in the order in which they run.

    Integer weights are multiplied out. Raises `ValueError` where the file is no TFLite file
    or a weight is computed by the graph.
    """
    from ai_edge_litert import schema_py_generated as schema

    contents = _existing(path).read_bytes()
    if contents[4:8] != b"TFL3":
        raise ValueError(f"{path} is no TFLite file.")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(contents, 0))
    operators = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = _KINDS.get(operators[max(code.builtinCode, code.deprecatedBuiltinCode)])
        if kind is None:
            continue
        # A transposed convolution is told the shape of its output first, its input third.
        places = (1, 3, 2) if kind == "transposed" else (1, 2, 0)
        kernel, bias, inputs = (graph.tensors[operator.inputs[place]] for place in places)
        weights = (_read(model, tensor, path) for tensor in (kernel, bias))
        found.append(Convolution(kind, *weights, num_inputs=int(inputs.shape[-1])))
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"The TFLite file {path} is missing.")
    return path


def _read(model, tensor, path) -> np.ndarray:
    from ai_edge_litert.schema_py_generated import TensorType

    types = {
        TensorType.FLOAT32: np.float32,
        TensorType.INT8: np.int8,
        TensorType.INT32: np.int32,
    }
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type not in types:
        raise ValueError(f"{path}: the weight {tensor.name.decode()!r} is not stored plainly.")
    values = np.frombuffer(bytes(data), types[tensor.type]).reshape(tensor.shape)
    if tensor.type == TensorType.FLOAT32:
        return values
    scale, zero = tensor.quantization.scale, tensor.quantization.zeroPoint
    shape = [1] * values.ndim
    shape[tensor.quantization.quantizedDimension] = len(scale)
    return ((values.astype("float64") - zero.reshape(shape)) * scale.reshape(shape)).astype(
        "float32"
    )
