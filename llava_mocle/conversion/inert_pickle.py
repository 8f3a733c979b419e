"""The data in a pickle without its code: nothing that the file names is ever imported or called.

`pickletools` takes the stream apart, one opcode at a time. Of the opcodes only those that build data are known here.
Of the names only those that a caller allows are: their objects become `Record`s, which have no behaviour. NumPy's
arrays, scalars and dtypes are read as bytes. joblib's form of a pickle is read too: the bytes of an array follow its
wrapper in the stream, after padding that joblib 1.2 and later write.
"""

import io
import pickletools
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

# A fitted k-means takes a few hundred; a million empty dictionaries would fill the memory.
_MOST_OPCODES = 100_000
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

# NumPy moved its core from `numpy.core` to `numpy._core` in version 2.
_CORES = ("numpy.core", "numpy._core")
_DTYPE = "numpy.dtype"
_SCALARS = {f"{core}.multiarray.scalar" for core in _CORES}
_EMPTY_ARRAYS = {f"{core}.multiarray._reconstruct" for core in _CORES}
_FROM_BUFFER = {f"{core}.numeric._frombuffer" for core in _CORES}
_ARRAY_CLASSES = {"numpy.ndarray", "numpy.memmap", *(f"{core}.memmap.memmap" for core in _CORES)}
# What Python 3 writes for bytes where the protocol, up to 2, has none.
_ENCODE = "_codecs.encode"
_EMPTY_BYTES = {"__builtin__.bytes", "builtins.bytes"}
_WRAPPERS = {f"{place}.numpy_pickle.NumpyArrayWrapper" for place in ("joblib", "sklearn.externals.joblib")}
# The state of a random generator, which an estimator may keep.
_GENERATORS = {
    *(f"numpy.random._pickle.{name}" for name in ("__randomstate_ctor", "__bit_generator_ctor", "__generator_ctor")),
    "numpy.random._mt19937.MT19937",
}
_NAMES = {
    _DTYPE, _ENCODE,
    *_SCALARS, *_EMPTY_ARRAYS, *_FROM_BUFFER, *_ARRAY_CLASSES, *_EMPTY_BYTES, *_WRAPPERS, *_GENERATORS,
}  # fmt: skip


class Refused(ValueError):
    """A pickle that is damaged, or holds something other than the data that was asked for."""


@dataclass
class Record:
    """An object of the file: the class that it names and its attributes. It has no behaviour."""

    name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass
class Array:
    """An array of the file; `values` is None until its bytes are read."""

    values: np.ndarray | None = None


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names."""

    name: str


@dataclass
class _NumberType:
    """A dtype of the file: its code, such as "f4", and its byte order."""

    code: str
    order: str = "<"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class InertReader:
    """Builds the data of one pickle.

    Args:
        content: the pickle, decompressed.
        classes: full names of the classes whose objects are allowed, as `Record`s.
    """

    def __init__(self, content: bytes, classes: Collection[str]) -> None:
        self._stream = io.BytesIO(content)
        self._size = len(content)
        # What may still be copied: every byte of an array lies in the stream, at most once as a text before.
        self._budget = 2 * len(content)
        self._classes = frozenset(classes)
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """The pickled object.

        Raises:
            Refused: the stream is damaged, or holds what is not allowed; says what.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._stream)):
                if count > _MOST_OPCODES:
                    raise Refused(f"it has more than {_MOST_OPCODES:,} steps")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except Refused:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
            raise Refused(f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from error
        raise Refused("it ends too early")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            stack.append(tuple(self._take(_TUPLES[opcode])))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode == "GLOBAL":
            stack.append(self._named(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            stack.append(self._named(*self._take(2)))
        elif opcode == "NEWOBJ":
            stack.append(self._new(*self._take(2)))
        elif opcode == "REDUCE":
            stack.append(self._reduced(*self._take(2)))
        elif opcode == "BUILD":
            self._build(*self._take(2))
        else:
            self._container_step(opcode)

    def _container_step(self, opcode: str) -> None:
        if opcode == "MARK":
            self._marked.append(self._stack)
            self._stack = []
        elif opcode in ("EMPTY_DICT", "EMPTY_LIST"):
            self._stack.append({} if opcode == "EMPTY_DICT" else [])
        elif opcode == "TUPLE":
            items = self._since_mark()
            self._stack.append(tuple(items))
        elif opcode in ("APPEND", "APPENDS"):
            items = self._take(1) if opcode == "APPEND" else self._since_mark()
            self._top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self._take(2) if opcode == "SETITEM" else self._since_mark()
            if not all(isinstance(key, (str, int)) for key in items[::2]):
                raise Refused("a dictionary has keys other than texts and whole numbers")
            self._top(dict).update(zip(items[::2], items[1::2], strict=True))
        else:
            raise Refused(f"it has the step {opcode}, which no fitted k-means needs")

    def _take(self, number: int) -> list[Any]:
        if number > len(self._stack):
            raise Refused("it is damaged (a step takes more than there is)")
        taken = self._stack[len(self._stack) - number :]
        del self._stack[len(self._stack) - number :]
        return taken

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _top(self, kind: type) -> Any:
        top = self._stack[-1]
        if type(top) is not kind:
            raise Refused(f"it is damaged (something is added to a {type(top).__name__})")
        return top

    def _named(self, module: Any, name: Any) -> _Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("it is damaged (a name is no text)")
        full = f"{module}.{name}"
        if full not in _NAMES and full not in self._classes:
            raise Refused(f"it names {full!r:.120}, and nothing but a k-means and its arrays is read")
        return _Name(full)

    def _new(self, named: Any, arguments: Any) -> Record:
        if not isinstance(named, _Name) or named.name not in self._classes | _WRAPPERS or arguments != ():
            raise Refused(f"it makes an object of {_what(named)}")
        return Record(named.name)

    def _reduced(self, named: Any, arguments: Any) -> Any:
        """What a call of the file stands for; only the calls of NumPy's own pickles are known, and none is made."""
        name = named.name if isinstance(named, _Name) else ""
        if type(arguments) is not tuple:
            raise Refused("it is damaged (a call without arguments)")
        if name == _DTYPE:
            code = arguments[0]
            if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
                raise Refused(f"it holds an array of dtype {code!r:.40}; only numbers are read, never objects")
            return _NumberType(code)
        if name in _SCALARS:
            kind, content = arguments
            return np.frombuffer(self._bytes(content), self._kind(kind), count=1)[0].item()
        if name in _EMPTY_ARRAYS:
            return Array()
        if name in _FROM_BUFFER:
            content, kind, shape, order = arguments
            return Array(self._array(self._bytes(content), self._kind(kind), shape, order))
        if name == _ENCODE and len(arguments) == len(("text", "latin1")) and arguments[1] == "latin1":
            return self._paid(arguments[0].encode("latin1"))
        if name in _EMPTY_BYTES and arguments == ():
            return b""
        if name in _GENERATORS:
            return Record(name)
        raise Refused(f"it calls {_what(named)}")

    def _build(self, target: Any, state: Any) -> None:
        """Give an object its state. An array's wrapper is replaced by the array, whose bytes follow in the stream."""
        if isinstance(target, _NumberType):
            if state[1] not in ("<", ">", "|", "=") or state[2] is not None:
                raise Refused("it holds an array of a dtype other than numbers")
            target.order = "<" if state[1] in ("|", "=") else state[1]
        elif isinstance(target, Array):
            _, shape, kind, is_fortran, content = state
            target.values = self._array(self._bytes(content), self._kind(kind), shape, "F" if is_fortran else "C")
        elif isinstance(target, Record) and target.name in _GENERATORS:
            pass  # a random generator's state decides nothing here
        elif isinstance(target, Record) and type(state) is dict and all(isinstance(key, str) for key in state):
            target.state.update(state)
            if target.name in _WRAPPERS:
                target = Array(self._following_array(target.state))
        else:
            raise Refused(f"it sets the state of {_what(target)}")
        self._stack.append(target)

    def _following_array(self, wrapper: dict[str, Any]) -> np.ndarray:
        kind = self._kind(wrapper.get("dtype"))
        shape = _checked_shape(wrapper.get("shape"))
        if wrapper.get("numpy_array_alignment_bytes") is not None:
            (padding,) = self._stream.read(1)
            self._stream.read(padding)
        size = prod(shape) * kind.itemsize
        left = self._size - self._stream.tell()
        if size > left:
            raise Refused(f"an array of shape {shape} has {size:,} bytes, and {left:,} are left")
        return self._array(self._stream.read(size), kind, shape, wrapper.get("order"))

    def _array(self, content: bytes, kind: np.dtype, shape: Any, order: Any) -> np.ndarray:
        shape = _checked_shape(shape)
        if prod(shape) * kind.itemsize != len(content) or order not in ("C", "F"):
            raise Refused(f"an array of shape {shape} has {len(content):,} bytes in order {order!r:.20}")
        values = np.frombuffer(self._paid(content), kind).reshape(shape, order=order)
        return values.astype(kind.newbyteorder("="))

    def _paid(self, content: bytes) -> bytes:
        self._budget -= len(content)
        if self._budget < 0:
            raise Refused("it holds the same bytes many times over")
        return content

    def _kind(self, value: Any) -> np.dtype:
        if not isinstance(value, _NumberType):
            raise Refused("it is damaged (an array without a dtype of numbers)")
        return value.dtype

    def _bytes(self, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray)):
            raise Refused("it holds an array of objects; only numbers are read")
        return bytes(value)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise Refused("it is damaged (an array without a shape)")
    return shape


def _what(value: Any) -> str:
    return repr(value.name) if isinstance(value, (_Name, Record)) else f"a {type(value).__name__}"
