"""Training examples that are read once and kept: the same batches, the right key, and what goes wrong."""

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.data import SOURCES, Labels, Source, cache, pipeline
from jtl.data.entry import Writer
from jtl.data.subset import Subset
from jtl.errors import UserError
from jtl.inputs import INPUTS
from jtl.inputs.image import Augment
from jtl.inputs.preprocess import Preprocess

IMAGE = INPUTS["image"]
PREPROCESS = Preprocess(image_px=(16, 16), resize_px=18)
STORAGE = IMAGE.storage(PREPROCESS, Augment())
ROOM = 1 << 24


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Six JPEG files of three shapes, one of them grey and one turned by EXIF."""
    for place in range(6):
        folder = tmp_path / "images" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = ((30, 60), (70, 28), (24, 24))[place % 3]
        pixels = np.random.default_rng(place).integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(pixels).convert("L" if place == 4 else "RGB")
        exif = Image.Exif()
        exif[0x0112] = 6 if place == 5 else 1
        image.save(folder / f"{place}.jpg", exif=exif, quality=95)
    kind = SOURCES["image_folder"]
    settings = kind.Config(name="image_folder", path=str(tmp_path / "images"), val_fraction=0.0)
    return kind.open(settings, Labels())["train"]


def kept(source: Source, said: list[str], max_bytes: int = ROOM) -> cache.Cached | None:
    assert STORAGE is not None
    return cache.cached(source, STORAGE, max_bytes, unit="images", say=said.append)


def batches(source: Source, threads: int = 1, workers: int = 0, number: int = 3) -> list[pipeline.Batch]:
    found = pipeline.train_batches(
        source,
        IMAGE.transform(PREPROCESS, Augment(color_jitter=0.3)),
        IMAGE,
        batch_size=4,
        seed=3,
        config=pipeline.Config(threads=threads, workers=workers),
    )
    try:
        return [next(found) for _ in range(number)]
    finally:
        found.close()


def assert_same(some: list[pipeline.Batch], others: list[pipeline.Batch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_of_images_that_were_not_shrunk_are_those_of_the_files(source: Source) -> None:
    found = kept(source, [])
    assert found is not None
    assert_same(batches(found), batches(source))


def test_batches_are_the_same_for_any_threads(source: Source) -> None:
    found = kept(source, [])
    assert found is not None
    assert_same(batches(found, threads=4), batches(found))


@pytest.mark.slow
def test_batches_are_the_same_in_worker_processes(source: Source) -> None:
    found = kept(source, [])
    assert found is not None
    assert_same(batches(found, workers=2), batches(found))


def test_what_is_kept_is_a_source_like_the_one_it_is_of(source: Source) -> None:
    found = kept(source, [])
    assert found is not None
    assert isinstance(found, Source)
    assert (len(found), found.info) == (len(source), source.info)
    np.testing.assert_array_equal(found.labels(), source.labels())
    assert found.describe(1) == source.describe(1)
    assert found.fingerprint(1) == source.fingerprint(1)
    assert {**found[-1], "raw": 0} == {**source[5], "raw": 0, "id": 5}
    copy = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(copy[2]["raw"], found[2]["raw"])


def test_files_are_read_once_for_all_runs(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert kept(source, said) is not None
    assert len(said) == 1
    assert said[0].startswith("reading 6 images once (short side at most 32 px), to be kept in ")
    monkeypatch.setattr(cache, "_write", lambda *_: pytest.fail("read again"))
    found = kept(source, said)
    assert found is not None
    monkeypatch.setattr(type(source), "__getitem__", lambda *_: pytest.fail("read again"))
    assert found[3]["raw"].dtype == np.uint8
    assert len(said) == 1


def test_other_files_another_order_and_other_settings_are_kept_apart(source: Source, tmp_path: Path) -> None:
    assert STORAGE is not None
    keys = {cache._key(source, STORAGE), cache._key(Subset(source, np.arange(6)[::-1]), STORAGE)}
    keys.add(cache._key(Subset(source, np.arange(5)), STORAGE))
    for other in (
        IMAGE.storage(PREPROCESS, Augment(crop_scale=(0.5, 1))),
        IMAGE.storage(Preprocess(image_px=(16, 16), resize_px=18, mean=(0.5,), std=(0.5,)), Augment()),
        IMAGE.storage(Preprocess(image_px=(16, 16), resize_px=18, background=255), Augment()),
    ):
        assert other is not None
        keys.add(cache._key(source, other))
    path = tmp_path / "images" / "a" / "0.jpg"
    Image.open(path).rotate(90).save(path)
    keys.add(cache._key(source, STORAGE))
    assert len(keys) == 7


def test_other_normalisation_and_another_head_share_what_is_kept(source: Source) -> None:
    other = IMAGE.storage(Preprocess(image_px=(16, 16), resize_px=20, mean=(0.1, 0.1, 0.1)), Augment(flip=0))
    assert other is not None
    assert STORAGE is not None
    assert cache._key(source, other) == cache._key(source, STORAGE)


def test_what_would_be_kept_is_known_before(source: Source) -> None:
    assert STORAGE is not None
    found = kept(source, [])
    assert found is not None
    assert cache.needed_bytes(source, STORAGE) == found.entry.arrays["values"].nbytes


def test_a_full_disk_is_told_and_leaves_the_files(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    said: list[str] = []
    monkeypatch.setattr(Writer, "append", full)
    assert kept(source, said) is None
    assert len(said) == 2
    assert said[1].startswith(f"images of {source.info.name} are not kept: ")
    assert said[1].endswith("fails (No space left on device)")


def test_an_example_that_cannot_be_read_is_named(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "images" / "b" / "3.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot read .*3\.jpg"):
        kept(source, [])
