"""The centers of a k-means, read from a file without executing anything in it."""

import math
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_speechssm.checks import first_line
from keras_speechssm.files import DAMAGED_ARRAYS

_ADVICE = "save the centers with numpy.save(path, kmeans.cluster_centers_)"


def read_kmeans(path: str | Path) -> np.ndarray:
    """Read the centers of a k-means.

    Args:
        path: `.npy` or `.npz`, `.safetensors` with one matrix, or a file of scikit-learn's
            `KMeans` or `MiniBatchKMeans` that joblib or pickle wrote without compression. The
            last kind is parsed: its arrays are read, and no code in it is imported or called.

    Returns:
        float32 (centers, dim).

    Raises:
        ValueError: The file is missing or damaged, or does not hold the centers of a k-means.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The file of centers {str(path)!r} is missing.")
    try:
        centers = _read(path)
    except DAMAGED_ARRAYS as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a k-means ({first_line(error)}); {_ADVICE}."
        ) from None
    if not isinstance(centers, np.ndarray) or centers.ndim != 2 or centers.dtype.kind != "f":
        raise ValueError(f"{str(path)!r} does not hold the centers of a k-means; {_ADVICE}.")
    with np.errstate(over="ignore"):  # too large for float32: infinite, so refused below
        centers = np.ascontiguousarray(centers, dtype="float32")
    if centers.shape[0] < 2 or not np.isfinite(centers).all():
        raise ValueError(
            f"{str(path)!r} holds {centers.shape[0]} centers; expected at least 2, all finite."
        )
    return centers


def _read(path: Path):
    if path.suffix in (".npy", ".npz"):
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            return content["cluster_centers_" if len(content.files) != 1 else content.files[0]]
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            content = load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        return content["cluster_centers_"] if len(content) != 1 else next(iter(content.values()))
    with open(path, "rb") as file:
        content = _parse(file)
    if isinstance(content, _Call) and isinstance(content.state, dict):
        content = content.state.get("cluster_centers_")
    return _array(content)


class _Call:
    """What a pickle would call: a description that is never called.

    Attributes:
        function: Dotted name of the function or class.
        arguments: Its arguments.
        state: What the pickle would restore in the result.
    """

    def __init__(self, function, arguments):
        self.function = function
        self.arguments = arguments
        self.state: Any = None


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _parse(file: BinaryIO):
    """Return the object that a pickle describes, of plain values and `_Call`.

    joblib writes the data of an array directly after the object that describes it.
    """
    stack: list = []
    memo: dict = {}

    def since_mark() -> list:
        # By identity: arrays are not equal to anything.
        place = max(i for i, value in enumerate(stack) if value is _MARK)
        values = stack[place + 1 :]
        del stack[place:]
        return values

    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = since_mark()
            stack[-1].extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name in ("SETITEMS", "DICT"):
            values = since_mark()
            if name == "DICT":
                stack.append({})
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(argument.replace(" ", "."))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(f"{module}.{attribute}")
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_Call(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
            if str(stack[-1].function).endswith(".NumpyArrayWrapper"):
                stack[-1] = _read_data(file, state)
        elif argument is not None:  # numbers, text, and bytes
            stack.append(argument)
        else:
            raise ValueError(f"its instruction {name} is not one of a k-means")
    raise ValueError("it ends too early")


def _read_data(file: BinaryIO, description: dict) -> np.ndarray:
    """Read the array that joblib wrote at the current place of the file."""
    dtype = _dtype(description["dtype"])
    if description.get("numpy_array_alignment_bytes") is not None:
        file.read(file.read(1)[0])
    shape = tuple(description["shape"])
    size = math.prod(shape) * dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends too early")
    order = "F" if description.get("order") == "F" else "C"
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _array(value):
    """Return the array that a pickle describes, or the value as it is."""
    if not isinstance(value, _Call):
        return value
    if str(value.function).endswith("multiarray._reconstruct"):
        _, shape, dtype, is_fortran, data = value.state
        order = "F" if is_fortran else "C"
    elif str(value.function).endswith("numeric._frombuffer"):  # protocol 5
        data, dtype, shape, order = value.arguments
    else:
        return value
    return np.frombuffer(_bytes(data), _dtype(dtype)).reshape(shape, order=order)


def _bytes(value) -> bytes:
    """Return bytes, which protocols below 3 write as text in Latin-1."""
    if isinstance(value, _Call) and value.function == "_codecs.encode":
        return value.arguments[0].encode("latin-1")
    return value


def _dtype(value) -> np.dtype:
    if not isinstance(value, _Call) or value.function != "numpy.dtype":
        raise ValueError("an array has no dtype")
    dtype = np.dtype(value.arguments[0])
    if dtype.kind not in "biuf":
        raise ValueError("an array holds objects instead of numbers")
    return dtype.newbyteorder(value.state[1]) if value.state else dtype
