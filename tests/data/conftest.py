"""Small data sets of every kind of source, written by the tests themselves."""

import csv
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from jtl.data import SOURCES, Labels, Source

CLASSES = ("ant", "bee", "wasp")
PER_CLASS = (10, 6, 4)
CLASS = Labels()


def pixels(seed: int, height: int = 9, width: int = 12) -> np.ndarray:
    """Return a random RGB image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(image: np.ndarray) -> bytes:
    """Return the image as PNG bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def examples() -> list[tuple[str, np.ndarray]]:
    """Return (class name, image) pairs, unbalanced, in mixed order."""
    labels = [name for name, count in zip(CLASSES, PER_CLASS, strict=True) for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(labels))
    return [(labels[place], pixels(int(place))) for place in order]


def write_folder(root: Path) -> dict[str, str]:
    for place, (name, image) in enumerate(examples()):
        (root / name).mkdir(exist_ok=True)
        (root / name / f"{place:03}.png").write_bytes(png(image))
    return {"path": str(root)}


def write_text_folder(root: Path) -> dict[str, str]:
    for place, (name, _) in enumerate(examples()):
        (root / name).mkdir(exist_ok=True)
        (root / name / f"{place:03}.txt").write_text(f"text {place}")
    return {"path": str(root)}


def write_table(root: Path) -> dict[str, str]:
    with open(root / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for place, (name, image) in enumerate(examples()):
            (root / f"{place:03}.png").write_bytes(png(image))
            writer.writerow([f"{place:03}.png", name])
    return {"path": str(root / "labels.csv")}


def write_arrays(root: Path) -> dict[str, str]:
    names, images = zip(*examples(), strict=True)
    np.savez(root / "set.npz", x_train=np.stack(images), y_train=np.array(names))
    return {"path": str(root / "set.npz")}


def write_digits(root: Path) -> dict[str, str]:
    del root
    return {}


def write_tfds(root: Path) -> dict[str, str]:
    prepare_tfds(root, {"train": [(name, png(image)) for name, image in examples()]})
    return {"path": str(root), "dataset": "tiny_set"}


def prepare_tfds(
    root: Path, encoded: dict[str, list[tuple[str, bytes]]], file_format: str = "array_record"
) -> None:
    """Prepare the set `tiny_set` under `root` from (class name, image bytes) by split, without TensorFlow."""
    import tensorflow_datasets as tfds

    class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        # Else TFDS looks for checksums beside this code, as if it were a package of data sets.
        url_infos: ClassVar[dict[str, Any]] = {}

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "several": tfds.features.Sequence(tfds.features.ClassLabel(names=CLASSES)),
                "numbers": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {split: self._generate_examples(split) for split in encoded}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            for place, (name, image) in enumerate(encoded[split]):
                several = [name] if name == "ant" else ["bee", "wasp"]
                numbers = np.array([place, 0.5], np.float32)
                yield (
                    place,
                    {"image": io.BytesIO(image), "label": name, "several": several, "numbers": numbers},
                )

    TinySet(data_dir=str(root), file_format=file_format).download_and_prepare()


def write_webdataset(root: Path) -> dict[str, str]:
    files = [
        (f"{place:03}.{ending}", content)
        for place, (name, image) in enumerate(examples())
        for ending, content in (("png", png(image)), ("cls", name.encode()))
    ]
    write_tar(root / "set.tar", files)
    return {"path": str(root / "set.tar")}


def write_tar(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """Write an archive of (name, bytes)."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


WRITERS = {
    "image_folder": write_folder,
    "text_folder": write_text_folder,
    "table": write_table,
    "arrays": write_arrays,
    "digits": write_digits,
    "tfds": write_tfds,
    "webdataset": write_webdataset,
}


@pytest.fixture(autouse=True)
def cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep what is kept between runs out of the user's folder."""
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, str]]]:
    """Return a function: kind of source → (its folder, its settings), written once a session."""
    assert WRITERS.keys() == SOURCES.keys(), "a new kind of source needs a small set here"
    cache: dict[str, tuple[Path, dict[str, str]]] = {}

    def write(name: str) -> tuple[Path, dict[str, str]]:
        if name not in cache:
            root = tmp_path_factory.mktemp(name)
            cache[name] = (root, WRITERS[name](root))
        return cache[name]

    return write


@pytest.fixture
def opened(written: Any) -> Callable[..., dict[str, Source]]:
    """Return a function: kind of source, settings → its opened splits."""

    def open_kind(name: str, labels: Labels = CLASS, **settings: Any) -> dict[str, Source]:
        return SOURCES[name].open(SOURCES[name].Config(**{**written(name)[1], **settings}), labels)

    return open_kind
