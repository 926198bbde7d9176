"""Damaged image files: what is found, and that nothing else happens than an image or one clear fault."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jtl.inputs import pixels
from jtl.inputs.contract import Unreadable
from jtl.inputs.image import transform
from jtl.inputs.pixels import decode, examine
from jtl.inputs.preprocess import Preprocess
from tests.inputs import mutations

FILES = mutations.files()
# Damage of 1,000 that a strict decode finds or that changes no pixel, at least (measured, rounded down).
FOUND = {"png": 1.0, "tiff_deflate": 0.9, "tiff_lzw": 0.6, "jpeg": 0.5, "jpeg_progressive": 0.45, "gif": 0.55}


def outcome(data: bytes, whole: np.ndarray) -> str:
    """Return "found", "same" or "other" (pixels) of a file; anything but a fault or an image is an error."""
    try:
        found = decode(data)
    except Unreadable as error:
        message = str(error)
    else:
        assert found.dtype == np.uint8
        assert found.shape[-1] in (1, 3)
        return "same" if found.shape == whole.shape and (found == whole).all() else "other"
    assert message
    assert "\n" not in message
    return "found"


@pytest.mark.parametrize("name", FILES)
def test_damage_gives_an_image_or_one_fault(name: str) -> None:
    whole, rng = decode(FILES[name]), np.random.default_rng(1)
    found = [outcome(mutations.mutated(FILES[name], rng), whole) for _ in range(60)]
    assert found.count("found") > 10


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_unreadable_wherever_it_is_cut(name: str) -> None:
    data = FILES[name]
    for length in np.linspace(0, len(data) - 3, 25).astype(int):
        with pytest.raises(Unreadable):
            decode(data[:length])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_much_damage_is_found_where_the_format_allows_it(name: str) -> None:
    whole, rng = decode(FILES[name]), np.random.default_rng(7)
    found = [outcome(mutations.mutated(FILES[name], rng), whole) for _ in range(2000)]
    assert found.count("other") <= (1 - FOUND.get(name, 0.25)) * len(found)


def test_what_follows_a_jpeg_and_fills_before_markers_are_no_damage() -> None:
    data = FILES["jpeg"]
    for sound in (
        data + b"trailing bytes of a camera",
        data[:2] + b"\xff" + data[2:],
        data[:-2] + b"\xff" + data[-2:],
    ):
        np.testing.assert_array_equal(decode(sound), decode(data))


def test_a_lost_restart_marker_is_named() -> None:
    data = FILES["jpeg_restarts"]
    place = data.index(b"\xff\xd3")
    with pytest.raises(Unreadable, match="it is damaged: a restart marker is missing"):
        decode(data[:place] + data[place + 2 :])


def test_a_wrong_checksum_of_a_png_is_named_in_whatever_chunk() -> None:
    data = bytearray(mutations.encoded(mutations.photo(), "PNG", dpi=(72, 72)))
    data[data.index(b"pHYs") + 5] ^= 1
    with pytest.raises(Unreadable, match=r"it is damaged: the checksum of the chunk at byte 33 is wrong"):
        decode(bytes(data))


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("tiff_lzw", "tiff_deflate"):
        data = bytearray(FILES[name])
        data[200:300] = b"\xff" * 100
        with pytest.raises(Unreadable):
            decode(bytes(data))
    assert capfd.readouterr() == ("", "")


def test_an_image_one_pixel_wide_needs_little_memory() -> None:
    """Resized whole, it would be 256 x 1,024,000 pixels: 786 MB three times."""
    thin = np.random.default_rng(0).integers(0, 256, (4000, 1, 3), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for raw in (thin, mutations.encoded(Image.fromarray(thin), "PNG")):
        found = transform(Preprocess((224, 224), resize_px=256), None)(raw)
        assert found.shape == (224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    # What the crop covers: 224 of 256 parts of a pixel's width, in the middle of the height.
    assert np.abs(found.reshape(-1, 3).mean(0) - thin[1999:2001].reshape(-1, 3).mean(0)).max() < 60


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (2, 61), (40, 700)])
def test_resizing_within_the_crop_is_resizing_the_whole(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    apply = transform(Preprocess((29, 29), resize_px=33), None)
    whole = apply(picture).astype(int)
    monkeypatch.setattr("jtl.inputs.image.MAX_RESIZED_PIXELS", 0)
    assert np.abs(apply(picture) - whole).max() <= 2


def test_pixels_in_arrays_pass_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MAX_PIXELS", 99)
    apply = transform(Preprocess((8, 8), resize_px=8), None)
    with pytest.raises(Unreadable, match="its 10 x 10 pixels are over the limit of 99"):
        apply(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(Unreadable, match=r"its pixels are uint8 \(0, 9, 3\), expected uint8 \[height"):
        apply(np.zeros((0, 9, 3), np.uint8))
    monkeypatch.setattr(pixels, "MAX_SIDE", 20)
    with pytest.raises(Unreadable, match="its 30 x 1 pixels are over the limit"):
        examine(mutations.encoded(Image.new("RGB", (30, 1)), "PNG"))


BOMB = """
import resource, sys
from jtl.inputs.contract import Unreadable
from jtl.inputs.pixels import decode
from tests.inputs.mutations import bombs

decode(bombs(8)["PNG"])
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for name, data in bombs(12_000).items():
    try:
        decode(data)
        sys.exit(f"{name} was decoded")
    except Unreadable as error:
        print(name, error)
"""


@pytest.mark.slow
def test_a_bomb_of_any_format_is_refused_by_its_header() -> None:
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", BOMB],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("its 12000 x 12000 pixels are over the limit") == len(mutations.bombs(8))
