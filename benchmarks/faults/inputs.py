"""Inputs of every kind that are damaged by chance: images, tables, tokenizers, configurations, weights.

Right is a result, or one line as an error a user can mend, within the seconds and the memory that a sound
file takes many times over. All is read in this process, by the code that the verbs read with.
"""

import io
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults import mutations, record, runs
from benchmarks.faults.alarm import NoEndError, alarm
from benchmarks.faults.runs import Setup

LIMIT_BYTES, MAX_GROWTH_BYTES = 12 << 30, 1 << 30
MAX_LINE = 1500
SIDE, NUM_ROWS = 64, 12
TEXTS = ("a film is good", "zz qq \U0001f600 éé", "")
GOLDENS = runs.ROOT / "tests" / "goldens"
VIT = GOLDENS / "weights" / "huggingface_vit.safetensors"
VIT_CONFIG = {
    **{"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_act": "gelu"},
    **{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16},
    **{"image_size": 8, "patch_size": 4, "num_channels": 3, "layer_norm_eps": 1e-6, "qkv_bias": True},
    "id2label": {"0": "a", "1": "b", "2": "c"},
}


class Kind(NamedTuple):
    """A kind of input: what a sound file holds, how it is damaged, what reads it, how many of 40 trials."""

    content: bytes
    damage: Callable[[Any, bytes], bytes]
    read: Callable[[Path], object]
    share: int


def trials(setup: Setup, num: int, seed: int) -> Iterator[record.Trial]:
    """Return the trials; the kinds take turns."""
    folder = setup.folder / "inputs" / f"{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["JTL_CACHE"] = str(folder / "cache")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    yield from trials_of(_kinds(), folder, num, seed)


def trials_of(kinds: Mapping[str, Kind], folder: Path, num: int, seed: int) -> Iterator[record.Trial]:
    """Return trials of these kinds, made in a folder."""
    turns = list(chain.from_iterable(repeat(name, kind.share) for name, kind in kinds.items()))
    for number in range(num):
        name = turns[number % len(turns)]
        yield record.Trial(f"{number:04d} {name}", partial(_trial, folder, name, kinds[name], number, seed))


def _trial(folder: Path, name: str, kind: Kind, number: int, seed: int) -> dict[str, Any]:
    rng = record.generator(seed, "inputs", number)
    content = kind.damage(rng, kind.content)
    # Each has a folder of its own: some of what is open is kept by name.
    path = folder / f"{number:05d}" / name
    path.parent.mkdir()
    path.write_bytes(content)
    before = _peak_bytes()
    what, faults = _tried(kind.read, path)
    grown = _peak_bytes() - before
    if grown > MAX_GROWTH_BYTES:
        faults.append(f"it took {grown / 2**30:.1f} GiB of memory")
    if faults:
        shutil.copy(path, folder / f"kept{number:05d}-{name}")
    shutil.rmtree(path.parent)
    return {"said": what[:300], "faults": faults}


def _tried(read: Callable[[Path], object], path: Path) -> tuple[str, list[str]]:
    """Return what was said of a file ("": it was read), and what of that is wrong."""
    from jtl.errors import UserError
    from jtl.inputs import Unreadable

    try:
        with alarm():
            read(path)
    except (UserError, Unreadable) as error:
        said = str(error)
        is_line = bool(said) and "\n" not in said and len(said) <= MAX_LINE
        return said, [] if is_line else [f"no line: {said[:200]!r}"]
    except (Exception, NoEndError) as error:
        return "", [f"{type(error).__name__}: {str(error)[:200]}"]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return "", [f"{type(error).__name__}: {str(error)[:200]}"]
    return "", []


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _kinds() -> dict[str, Kind]:
    """Return every kind of input, by the name of its file."""
    pixels = _pixels()
    images = {name: _encoded(pixels, name) for name in ("png", "jpeg", "gif", "tiff", "webp", "bmp")}
    more = {"png", "jpeg"}
    return {
        **{
            f"a.{name}": Kind(content, mutations.damaged, _read_image, 4 if name in more else 3)
            for name, content in images.items()
        },
        **{
            name: Kind(content, mutations.damaged, _read_table, 2)
            for name, content in _tables(images["png"]).items()
        },
        **_texts(),
        "config.json": _config(),
        **_weights(),
    }


def _pixels() -> np.ndarray:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    noise = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 3))
    values = np.stack([rows * 3, columns * 3, 255 * (rows > columns)], -1) + noise
    return np.clip(values, 0, 255).astype(np.uint8)


def _encoded(pixels: np.ndarray, name: str) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    more = {"compression": "tiff_lzw"} if name == "tiff" else {}
    Image.fromarray(pixels).save(stream, name, **more)
    return stream.getvalue()


def _read_image(path: Path) -> None:
    from jtl.inputs.image import transform
    from jtl.inputs.pixels import examine
    from jtl.inputs.preprocess import Preprocess

    data = path.read_bytes()
    examine(data)
    transform(Preprocess((32, 32), resize_px=36), None)(data, None)


def _tables(image: bytes) -> Mapping[str, bytes]:
    """Return tables of texts in each form, and one of images."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"text": f"the text {place}, of some length", "label": "ab"[place % 2]} for place in range(NUM_ROWS)
    ]
    images = [{"bytes": image, "path": f"{place}.png"} for place in range(NUM_ROWS)]
    stored = {"image": images, "label": [place % 2 for place in range(NUM_ROWS)]}

    def written(table: Any) -> bytes:
        stream = io.BytesIO()
        parquet.write_table(table, stream, row_group_size=5)
        return stream.getvalue()

    def delimited(delimiter: str) -> bytes:
        lines = [f'"{row["text"]}"{delimiter}{row["label"]}' for row in rows]
        return "\n".join([f"text{delimiter}label", *lines, ""]).encode()

    return {
        "a.csv": delimited(","),
        "a.tsv": delimited("\t"),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "a.parquet": written(pyarrow.Table.from_pylist(rows)),
        "images.parquet": written(pyarrow.table(stored)),
    }


def _read_table(path: Path) -> None:
    from jtl.data import SOURCES, Labels

    config = SOURCES["table"].Config(path=str(path), val_fraction=0.0)
    for source in SOURCES["table"].open(config, Labels()).values():
        for index in range(len(source)):
            source.describe(index)
            source.fingerprint(index, source[index]["raw"])


def _texts() -> dict[str, Kind]:
    words = GOLDENS / "tokens" / "words"
    return {
        "tokenizer.json": Kind((words / "tokenizer.json").read_bytes(), _of_json, _read_tokenizer, 2),
        "vocab.txt": Kind((words / "vocab.txt").read_bytes(), mutations.damaged, _read_tokenizer, 2),
    }


def _read_tokenizer(path: Path) -> None:
    from jtl.errors import UserError
    from jtl.inputs import Unreadable, tokens
    from jtl.weights.hub import text_files

    preprocess = text_files.of_folder({}, path.parent)
    if preprocess is None:
        raise UserError(f"{path.parent} has no tokenizer")
    transform = tokens.transform(preprocess, None)
    for text in TEXTS:
        try:
            transform(text, None)
        except Unreadable:  # a text of which nothing is left
            continue


def _config() -> Kind:
    """Return the config.json beside weights that are sound, as a hub keeps them."""

    def read(path: Path) -> None:
        shutil.copy(VIT, path.parent / "model.safetensors")
        _described(path.parent)

    return Kind(json.dumps(VIT_CONFIG).encode(), _of_json, read, 1)


def _weights() -> dict[str, Kind]:
    from safetensors.numpy import save

    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return {
        "model.safetensors": Kind(VIT.read_bytes(), _in_header, _read_weights, 1),
        "a.safetensors": Kind(save(arrays), mutations.damaged, _read_weights, 1),
        "a.npz": Kind(stream.getvalue(), mutations.damaged, _read_weights, 1),
        "a.pth": Kind(
            (GOLDENS / "weights" / "tensors_zip.pt").read_bytes(), mutations.damaged, _read_weights, 1
        ),
        "b.pth": Kind(
            (GOLDENS / "weights" / "tensors_legacy.pt").read_bytes(), mutations.damaged, _read_weights, 1
        ),
    }


def _read_weights(path: Path) -> None:
    from jtl.weights.open import open_path

    for tensor in open_path(path).tensors.values():
        tensor.read()
    _described(path)


def _described(path: Path) -> None:
    from jtl.weights.open import open_path
    from jtl.weights.recognise import described

    described(open_path(path), str(path))


def _of_json(rng: Any, content: bytes) -> bytes:
    return mutations.mutated(rng, content)[1]


def _in_header(rng: Any, content: bytes) -> bytes:
    """Damage the JSON in front of the tensors of a safetensors file; half the time its length is right."""
    length = int.from_bytes(content[:8], "little")
    changed = mutations.mutated(rng, content[8 : 8 + length])[1]
    stated = len(changed) if rng.random() < 0.5 else length
    return stated.to_bytes(8, "little") + changed + content[8 + length :]
