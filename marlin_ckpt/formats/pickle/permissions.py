"""What unpickling a file would import, and which of it torch's `weights_only` refuses."""

import _compat_pickle
import keyword
from collections.abc import Iterable, Sequence
from enum import StrEnum


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STORED = _names(
    "BFloat16 Bool Byte Char ComplexDouble ComplexFloat Double Float Half Int Long Short "
    "QInt32 QInt8 QUInt2x4 QUInt4x2 QUInt8"
)
_COUNTED = _names("BFloat16 Bool Byte Char Double Float Half Int Long Short")
_SPARSE = _names("BFloat16 Byte Char Double Float Half Int Long Short")
_TYPES = _names(
    "bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16 float32 "
    "float4_e2m1fn_x2 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 int8 qint32 qint8 quint2x4 quint4x2 quint8 "
    "uint1 uint16 uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8 "
    "per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine "
    "per_tensor_symmetric Size Tensor device"
)
_REBUILDS = _names(
    "device_tensor_from_cpu_tensor device_tensor_from_numpy meta_tensor_no_storage nested_tensor parameter "
    "parameter_with_state qtensor sparse_tensor tensor tensor_v2 tensor_v3 wrapper_subclass"
)

# Source: `_get_allowed_globals` in torch/_weights_only_unpickler.py of torch 2.13.
ALLOWED = frozenset({
    "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set", "collections.Counter",
    "collections.OrderedDict", "torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout", "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
    *(f"torch.{name}" for name in _TYPES),
    *(f"torch.{name}Storage" for name in _STORED),
    *(f"torch.cuda.{name}Storage" for name in _STORED if not name.startswith("Q")),
    *(f"torch.{place}{name}Tensor" for place in ("", "cuda.") for name in _COUNTED),
    *(f"torch.{place}sparse.{name}Tensor" for place in ("", "cuda.") for name in _SPARSE),
    *(f"torch._utils._rebuild_{name}" for name in _REBUILDS),
})  # fmt: skip

# Source: `_blocklisted_modules` in the same file; nothing of them is imported whatever a user allows.
BLOCKED_MODULES = frozenset({"nt", "os", "posix", "sys"})
# What hands a file's writer the machine; no list is offered that allows it.
_DANGEROUS_MODULES = BLOCKED_MODULES | _names(
    "_pickle cProfile code commands ctypes importlib marshal operator pdb pickle profile pty runpy "
    "shutil socket subprocess timeit urllib webbrowser"
)
_HARMLESS_BUILTINS = _names(
    "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"
)


class Permission(StrEnum):
    """What `weights_only` says to a name.

    ALLOWED names it imports, REFUSED ones where a user allows them, and DANGEROUS ones run code of the file's
    writer: they are never to be allowed.
    """

    ALLOWED = "allowed"
    REFUSED = "refused"
    DANGEROUS = "dangerous"


def python_3_name(module: str, name: str) -> tuple[str, str]:
    """What Python 3 imports for a name in a pickle, which may be one of Python 2.

    torch maps names in the same way; see `_read_global_instruction` in torch/_weights_only_unpickler.py.
    """
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def present_name(name: tuple[str, str]) -> str:
    """What a name is today, `numpy._core.multiarray.scalar`: in Python 3 and in numpy 2."""
    return _moved(".".join(python_3_name(*name)))


def permission(name: str) -> Permission:
    """What `weights_only` says to one name, `argparse.Namespace`."""
    if name in ALLOWED:
        return Permission.ALLOWED
    top, _, rest = name.partition(".")
    runs_code = rest not in _HARMLESS_BUILTINS if top == "builtins" else top in _DANGEROUS_MODULES
    return Permission.DANGEROUS if runs_code else Permission.REFUSED


def loading_code(path: str, imports: Iterable[str], numpy_types: Sequence[str] = ()) -> tuple[str, ...]:
    """The lines of Python with which `torch.load` reads a file that it refuses.

    Args:
        path: the file.
        imports: all names that unpickling it imports.
        numpy_types: the codes of the numpy dtypes in it, `f8`, each of which is of a class of its own.

    Returns:
        nothing where nothing is refused, and where it must not be allowed.
    """
    refused = [name for name in imports if name not in ALLOWED]
    if not refused or any(
        permission(name) is Permission.DANGEROUS or not _can_be_spelled(name) for name in refused
    ):
        return ()
    parts = [name if _moved(name) == name else f'({_moved(name)}, "{name}")' for name in refused]
    if "numpy.dtype" in refused:
        parts += [f'type(numpy.dtype("{code}"))' for code in numpy_types]
    modules = sorted({"torch", *(_moved(name).rpartition(".")[0] for name in refused)})
    return (
        f"import {', '.join(modules)}",
        f"with torch.serialization.safe_globals([{', '.join(parts)}]): state = torch.load({path!a})",
    )


def _moved(name: str) -> str:
    """Where numpy 2 has what numpy 1 wrote."""
    return name.replace("numpy.core.", "numpy._core.", 1) if name.startswith("numpy.core.") else name


def _can_be_spelled(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))
