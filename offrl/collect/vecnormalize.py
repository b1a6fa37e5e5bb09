"""VecNormalize statistics of Stable-Baselines3, read without running anything of their file.

The file is a pickle, which is a program for a small stack machine. This one knows the instructions
that such a file needs, and instead of looking up or calling anything it keeps what would have been
called as a record; only the names listed here may occur. Of the tree of records that remains, the
mean and variance of the observations are taken, as plain numbers.
"""

import pickletools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.errors import ConfigError, CorruptDataError, UnsafeDataError

_LARGEST = 2**26  # bytes; statistics of a million observation coordinates take 16 MB
_STEPS = 200_000  # instructions
_MODULES = (
    "stable_baselines3.common.vec_env.vec_normalize VecNormalize",
    "stable_baselines3.common.running_mean_std RunningMeanStd",
    *(f"{gym}.spaces.{name}" for gym in ("gym", "gymnasium") for name in (
        "box Box", "discrete Discrete", "multi_discrete MultiDiscrete",
        "multi_binary MultiBinary", "dict Dict", "tuple Tuple",
    )),
    "numpy dtype", "numpy ndarray", "collections OrderedDict",
    *(f"numpy.{core}.multiarray {name}" for core in ("core", "_core")
      for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")),
    *(f"numpy.random._pickle {name}" for name in (
        "__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor",
    )),
    *(f"numpy.random.{name}" for name in ("_pcg64 PCG64", "_mt19937 MT19937")),
    "numpy.random.bit_generator SeedSequence",
    "numpy.random.bit_generator SeedlessSeedSequence",
    "numpy.random.bit_generator __pyx_unpickle_SeedSequence",
)  # fmt: skip
KNOWN = frozenset(_MODULES)
_MARK = object()
_OTHERWISE = (
    "Do not use this file: save the statistics again with VecNormalize.save. If you trust its "
    "author, --trust has stable-baselines3 unpickle it, which executes what it names."
)


@dataclass(frozen=True)
class Statistics:
    """What turns a raw observation into what the agent's network was trained on."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]  # sqrt(variance + epsilon)
    clip: float

    def __call__(self, obs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return a flat observation normalised and clipped."""
        scaled = (obs - self.mean) / self.std
        return np.minimum(np.maximum(scaled, -self.clip), self.clip).astype(np.float32)


@dataclass
class _Record:
    """A class or function by name, with what it would have been called with and given."""

    name: str
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict[Any, Any])


def read_statistics(path: Path) -> Statistics | None:
    """Return the statistics of a vecnormalize file, None where it leaves observations alone.

    Raises UnsafeDataError for a file that names anything but what VecNormalize is made of,
    CorruptDataError for one that is damaged, ConfigError for statistics of a dictionary.
    """
    if path.stat().st_size > _LARGEST:
        raise UnsafeDataError(f"{path} is too large for statistics.", "Remove it, or put it right.")
    try:
        tree = _run(path.read_bytes(), path)
        if not isinstance(tree, _Record) or not tree.name.endswith(" VecNormalize"):
            raise ValueError("it is not a VecNormalize")
        state = tree.state
        if not state["norm_obs"]:
            return None
        moments = state["obs_rms"]
        if isinstance(moments, dict):
            raise ConfigError(
                f"{path} has statistics of a dictionary of observations, which are not read.",
                "Normalise in a function of yours, FILE.py:FUNCTION; or, if you trust its author, "
                "--trust has stable-baselines3 unpickle the file, which executes what it names.",
            )
        mean, variance = (_array(moments.state[name]).reshape(-1) for name in ("mean", "var"))
        epsilon, clip = _number(state["epsilon"]), _number(state["clip_obs"])
        std = np.sqrt(variance + epsilon)
        if mean.shape != std.shape or not (np.isfinite(mean).all() and (std > 0).all()):
            raise ValueError("its mean and variance do not pair or are not finite")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptDataError(
            f"{path} cannot be read: {error}.", "Save it again with VecNormalize.save."
        ) from error
    return Statistics(mean, std, clip)


def _run(content: bytes, path: Path) -> Any:
    """Return what the pickle builds, with records for everything that it would call."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a list without a beginning")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    for count, (opcode, arg, _) in enumerate(pickletools.genops(content)):
        if count > _STEPS:
            raise ValueError("it is too long")
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                arg = " ".join(str(part) for part in (stack.pop(-2), stack.pop()))
            if arg not in KNOWN:
                raise UnsafeDataError(
                    f"{path} names {arg!r}, which no VecNormalize statistics need.",
                    _OTHERWISE,
                )
            stack.append(_Record(str(arg)))
        elif name in ("REDUCE", "NEWOBJ"):
            args, made = stack.pop(), stack.pop()
            stack.append(_Record(made.name, args))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(arg or 0)])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(marked()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("SETITEM", "SETITEMS"):
            pairs = marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            into = stack[-1].items if isinstance(stack[-1], _Record) else stack[-1]
            into.update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            items = marked() if name == "APPENDS" else [stack.pop()]
            into = stack[-1]
            if not isinstance(into, list):
                raise ValueError("a list that is none")
            into.extend(items)
        elif name in ("NEWTRUE", "NEWFALSE", "NONE"):
            stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[name])
        elif name in _LITERALS:
            stack.append(arg)
        else:
            raise UnsafeDataError(
                f"{path} has the instruction {name}, which no VecNormalize statistics need.",
                _OTHERWISE,
            )
    raise ValueError("it has no end")


_LITERALS = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip


def _array(value: Any) -> npt.NDArray[np.float64]:
    """Return a record of an array, as numpy writes it, as numbers."""
    # Fortran's order, which both forms may name, is no different in one dimension.
    if isinstance(value, _Record) and value.name.endswith("numeric _frombuffer"):
        content, kind, shape, _ = value.args
    elif isinstance(value, _Record) and value.name.endswith("multiarray _reconstruct"):
        _, shape, kind, _, content = value.state
    else:
        raise ValueError("its statistics are not arrays")
    numbers = np.frombuffer(content, _kind(kind))
    return numbers.reshape(shape).astype(np.float64)


def _number(value: Any) -> float:
    if isinstance(value, _Record) and value.name.endswith("multiarray scalar"):
        kind, content = value.args
        return float(np.frombuffer(content, _kind(kind), 1)[0])
    if not isinstance(value, int | float):
        raise ValueError(f"it holds {value!r} for a number")
    return float(value)


def _kind(record: _Record) -> np.dtype[Any]:
    """Return a type of plain numbers, f4 or f8 or an integer; ValueError for anything else."""
    text = record.args[0]
    order = record.state[1] if record.state else "<"
    if text not in ("f2", "f4", "f8", "i4", "i8", "u4", "u8") or order not in "<>=|":
        raise ValueError(f"it holds {text!r}")
    return np.dtype(text).newbyteorder(order)
