"""Examples as a Python program has them: paths, texts, bytes, pictures, pixels; as sources."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jtl.data import Info, Source
from jtl.data.contract import IMAGE, TEXT
from jtl.errors import UserError
from jtl.training import config
from jtl.training.config import Config
from jtl.verbs import given

# Modes of Pillow whose pixels are what a model's pre-processing begins with, and others that PNG keeps whole.
PLAIN = ("L", "RGB")
AS_PNG = ("1", "LA", "P", "RGBA", "I;16")
NUM_BATCH_DIMS = 4


@dataclass(frozen=True, eq=False)
class Given:
    """Source of examples in memory, without labels: raw as `Info.holds` says, and what each is called."""

    info: Info
    raws: tuple[Any, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.raws)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        return {"raw": self.raws[index], "label": None, "id": index}

    def labels(self) -> None:
        """Return None: there are none."""

    def describe(self, index: int) -> str:
        """Return what the example is called."""
        return self.names[index]

    def fingerprint(self, index: int, raw: Any = None) -> bytes:
        """Return a digest of what is in memory."""
        del raw
        found = self.raws[index]
        data = found if isinstance(found, bytes) else repr(found).encode(errors="surrogatepass")
        data = found.tobytes() if isinstance(found, np.ndarray) else data
        return hashlib.blake2b(data, digest_size=16).digest()


class Taken(NamedTuple):
    """How examples of one kind are taken.

    `paths` are the types that are paths, `is_one(value)` is whether something is one example of itself rather
    than several, `raw(value)` what a source holds of one, and `expected` what an error asks for.
    """

    paths: tuple[type, ...]
    is_one: Callable[[Any], bool]
    raw: Callable[[Any], Any]
    expected: str


def listed(settings: Config, inputs: Any) -> list[Any]:
    """Return the single examples, and paths of one or several, that a program gives.

    Raises:
        UserError: there is nothing, or neither an example nor several.
    """
    taken = _taken(settings)
    if isinstance(inputs, taken.paths) or taken.is_one(inputs):
        return [inputs]
    if not isinstance(inputs, Iterable) or isinstance(inputs, str | bytes | dict):
        raise UserError(f"a {type(inputs).__name__} is given; expected {taken.expected}, or a list of them")
    found = list(inputs)
    if not found:
        raise UserError(f"there is nothing to look at; give {taken.expected}, or a list of them")
    return found


def sources(settings: Config, examples: Sequence[Any]) -> list[Source]:
    """Open single examples and paths, among which kinds may be mixed.

    Raises:
        UserError: one is nothing that the model reads, or a path is not there.
    """
    kind, taken = config.input_of(settings.model), _taken(settings)
    opened: list[Source] = []
    number = 0
    for is_path, group in groupby(examples, lambda each: isinstance(each, taken.paths)):
        each = list(group)
        if is_path:
            opened += given.sources(settings, [os.fspath(path) for path in each])
            continue
        names = tuple(f"{kind.holds} {number + place}" for place in range(len(each)))
        raws = tuple(map(taken.raw, each))
        opened.append(Given(Info("what is given", (), kind.holds), raws, names))
        number += len(each)
    return opened


def paths(settings: Config, examples: Sequence[Any]) -> list[str]:
    """Return the paths among them."""
    return [os.fspath(each) for each in examples if isinstance(each, _taken(settings).paths)]


def _taken(settings: Config) -> Taken:
    return TAKEN[config.input_of(settings.model).holds]


def _is_picture(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray) and value.ndim < NUM_BATCH_DIMS and value.dtype.kind not in "USO"
    return is_array or isinstance(value, bytes | Image.Image)


def _is_text(value: Any) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, str) for each in value)
    return is_pair or isinstance(value, str)


def _picture(value: Any) -> bytes | np.ndarray:
    """Return the bytes of an image file, or upright pixels uint8 [height, width, channels].

    Raises:
        UserError: it is no picture.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, Image.Image):
        return _of_pillow(value)
    if not isinstance(value, np.ndarray):
        raise UserError(f"a {type(value).__name__} is given; expected {TAKEN[IMAGE].expected}")
    pixels = value[..., None] if value.ndim == 2 else value
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or not pixels.size:
        raise UserError(
            f"pixels are {value.dtype} {value.shape}; expected uint8 [height, width, channels], 0 to 255, "
            f"before any normalisation: the model's own is applied"
        )
    return pixels


def _of_pillow(picture: Image.Image) -> bytes | np.ndarray:
    """Return a picture's pixels, or where it has others than 8 bits of grey or RGB, a lossless file."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in PLAIN and "transparency" not in upright.info:
        pixels = np.asarray(upright)
        return pixels[..., None] if pixels.ndim == 2 else pixels
    stream = io.BytesIO()
    is_png = upright.mode in (*AS_PNG, *PLAIN)
    upright.save(stream, "PNG" if is_png else "TIFF", **({"compress_level": 1} if is_png else {}))
    return stream.getvalue()


def _text(value: Any) -> str | tuple[str, str]:
    """Return a text, or a pair of texts.

    Raises:
        UserError: it is neither.
    """
    if not _is_text(value):
        raise UserError(f"a {type(value).__name__} is given; expected {TAKEN[TEXT].expected}")
    return value


# By what a model's raw examples are.
TAKEN = {
    IMAGE: Taken(
        (str, os.PathLike),
        _is_picture,
        _picture,
        "a path, the bytes of an image file, a Pillow image, or pixels uint8 [height, width, channels]",
    ),
    TEXT: Taken((os.PathLike,), _is_text, _text, "a text, a tuple of two texts, or a pathlib.Path of some"),
}
