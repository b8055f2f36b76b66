"""The closed list of names that a `.pth` file may contain; any other name is refused, wherever it occurs.

The names are compared as text; they are never looked up or called.
"""

import ml_dtypes
import numpy as np

Name = tuple[str, str]
"""Module and attribute."""

STORAGE_TYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "ShortStorage": np.dtype(np.int16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "BoolStorage": np.dtype(np.bool_),
}
"""Element type of each storage class of the module `torch`."""

REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
ORDERED_DICT = ("collections", "OrderedDict")
NAMESPACE = ("argparse", "Namespace")

UNDERSTOOD: frozenset[Name] = frozenset(
    {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT, NAMESPACE} | {("torch", name) for name in STORAGE_TYPES}
)
"""Names that are converted to tensors and dictionaries."""

_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("uint8", "int8", "int16", "int32", "int64", "bool"),
)

PASSED_OVER: frozenset[Name] = frozenset(
    {("torch", name) for name in ("device", "Size", *_DTYPES)}
    # `numpy.core` until NumPy 2
    | {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
    | {("numpy", "dtype"), ("numpy", "ndarray")}
    # how the pickles of Python 2's protocols spell bytes
    | {("_codecs", "encode"), ("__builtin__", "bytes")}
    # `pathlib._local` in Python 3.13
    | {(module, f"{system}Path") for module in ("pathlib", "pathlib._local") for system in ("Posix", "Windows")}
    | {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}
    | {("collections", "Counter")}
)
"""Names of harmless objects that other training programs store beside the model; they are ignored."""
