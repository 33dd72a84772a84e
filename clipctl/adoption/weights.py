"""A checkpoint of open_clip_train's, read to its last byte without torch: a login node has none.

torch.save writes a zip: `data.pkl`, a pickle in which each tensor is a reference, and a member of raw numbers for each
storage. Only what torch.load(weights_only=True) would take is unpickled here, and nothing of it is executed.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trainer.verify import DIGEST_PREFIX

CHUNK = 1 << 22  # bytes; a multiple of every number's width


@dataclass(frozen=True)
class Storage:
    """A reference to a member: which one, and what its numbers are."""

    key: str
    kind: str  # torch's name: FloatStorage


@dataclass(frozen=True)
class Contents:
    digest: str
    size: int
    epochs_done: int
    samples_seen: int | None  # only since 4.2 does open_clip write it
    finite: bool  # all weights


class Unusable(ValueError):
    """Why a file is none to go on from."""


def examine(path: Path, tell: Callable[[int], None] = lambda count: None) -> Contents:
    """Every byte twice: by the zip's CRCs, and for the digest. `tell`: how many bytes were read.

    Unusable: cut, damaged, or no training state of open_clip's. OSError: cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            payload = _payload(archive)
            finite = _read_all(archive, _weights(payload), tell)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise Unusable(f"not a whole torch checkpoint: {error}") from error
    digest, size = _digest(path, tell)
    samples = payload.get("samples_seen")
    return Contents(
        digest=digest,
        size=size,
        epochs_done=payload["epoch"],
        samples_seen=samples if type(samples) is int and samples > 0 else None,
        finite=finite,
    )


# --- what is in it ----------------------------------------------------------------------------------


def _payload(archive: zipfile.ZipFile) -> dict[str, Any]:
    member = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
    if member is None:
        raise Unusable("a zip, but not torch's: no data.pkl is in it")
    with archive.open(member) as file:
        try:
            payload = _Reader(file).load()
        except Unusable:
            raise
        except _BROKEN as error:
            raise Unusable(f"its data.pkl cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(payload, dict) or not isinstance(payload.get("state_dict"), dict):
        raise Unusable("no training state (open_clip's keys: epoch, state_dict, optimizer)")
    if "optimizer" not in payload or type(payload.get("epoch")) is not int:
        raise Unusable("weights alone: without the optimizer's state and the epoch nothing goes on from it")
    return payload


def _weights(payload: Mapping[str, Any]) -> Mapping[str, str]:
    """By member: the kind of its numbers."""
    found = (value for value in payload["state_dict"].values() if isinstance(value, Storage))
    return {storage.key: storage.kind for storage in found}


class _Reader(pickle.Unpickler):
    """Tensors become the storages that hold them; a class that is none of torch's plain ones is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return name
        if module == "torch.storage" and name == "UntypedStorage":
            return name
        known = _PLAIN.get((module, name))
        if known is None:
            raise Unusable(f"it holds {module}.{name}, and no plain weights: torch.load(weights_only=True) refuses it")
        return known

    def persistent_load(self, reference: Any) -> Storage:
        _, kind, key, *_ = reference
        return Storage(str(key), str(kind))


_BROKEN = (pickle.UnpicklingError, ValueError, TypeError, AttributeError, LookupError, EOFError, RecursionError)


def _first(*arguments: Any) -> Any:
    return arguments[0]


_PLAIN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("torch._utils", "_rebuild_tensor"): _first,
    ("torch._utils", "_rebuild_tensor_v2"): _first,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch", "Size"): tuple,
}


# --- its bytes --------------------------------------------------------------------------------------


def _read_all(archive: zipfile.ZipFile, weights: Mapping[str, str], tell: Callable[[int], None]) -> bool:
    """Reading a member to its end has its CRC compared. True: no weight is infinite or no number."""
    finite = True
    for member in archive.infolist():
        folder, _, name = member.filename.rpartition("/")
        test = _NOT_FINITE.get(weights.get(name, "")) if folder.endswith("data") else None
        with archive.open(member) as file:
            for chunk in _chunks(file):
                finite = finite and not (test and test(chunk))
                tell(len(chunk))
    return finite


def _digest(path: Path, tell: Callable[[int], None]) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for chunk in _chunks(file):
            found.update(chunk)
            size += len(chunk)
            tell(len(chunk))
    return DIGEST_PREFIX + found.hexdigest(), size


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _exponent_full(width: int, top: int, next_bits: int) -> Callable[[bytes], bool]:
    """Whether a little-endian number of `width` bytes in a chunk has every bit of its exponent set.

    `top`: those of them in its last byte; `next_bits`: in the byte before. The last bytes are looked at
    first, in C, and nearly always that is the end of it.
    """
    suspects = bytes(value for value in range(256) if value & top == top)
    others = bytes(set(range(256)) - set(suspects))

    def found(chunk: bytes) -> bool:
        last = chunk[width - 1 :: width]
        if not last.translate(None, others):
            return False
        return any(
            value & top == top and chunk[index * width + width - 2] & next_bits == next_bits
            for index, value in enumerate(last)
        )

    return found


_NOT_FINITE: Mapping[str, Callable[[bytes], bool]] = {
    "FloatStorage": _exponent_full(4, 0x7F, 0x80),
    "DoubleStorage": _exponent_full(8, 0x7F, 0xF0),
    "HalfStorage": _exponent_full(2, 0x7C, 0),
    "BFloat16Storage": _exponent_full(2, 0x7F, 0x80),
}
