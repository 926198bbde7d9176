"""What of a picture is lost in reading is said by every verb that reads some, and kept in its result."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.verbs import evaluate, features, predict

OPTIONS: dict[str, Any] = {
    "batch_size": 2,
    "overrides": (("sharding.devices", "1"), ("model.image_px", "16")),
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of pictures that lose something in reading, and of one that cannot be read."""
    root, random = tmp_path / "odd", np.random.default_rng(0)
    root.mkdir()
    grey = Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))
    grey.save(root / "pages.tif", save_all=True, append_images=[grey])
    Image.merge("RGBA", [grey] * 4).save(root / "hidden.png")
    Image.merge("CMYK", [grey] * 4).save(root / "printed.jpg")
    Image.fromarray(random.integers(0, 4096, (32, 32), np.uint16)).save(root / "deep.png")
    (root / "broken.png").write_bytes((root / "deep.png").read_bytes()[:80])
    return root


LOST = (
    " images hold several pages or frames: the first is read (",
    " images are transparent in part: ",
    " images are CMYK: ",
    " images hold more than 8 bits, values up to ",
)


def test_what_is_lost_in_reading_is_said_and_kept(
    weights: str, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted = predict.run(weights=weights, inputs=[str(odd)], **OPTIONS)
    told = capsys.readouterr().err
    assert [bool(row.get("error")) for row in predicted["images"]] == [True, False, False, False, False]
    (odd / "broken.png").unlink()
    found = [
        predicted["notes"],
        features.run(weights=weights, data=str(odd), out=str(tmp_path / "f.npz"), **OPTIONS)["notes"],
        evaluate.run(weights=weights, data=str(_classed(odd)), **OPTIONS)["notes"],
    ]
    for line in LOST:
        assert line in told
        assert all(any(line in note for note in notes) for notes in found), line


def _classed(folder: Path) -> Path:
    """Put the pictures of a folder under one class of three."""
    for name in ("0", "1", "2"):
        (folder / name).mkdir()
    for path in [each for each in folder.iterdir() if each.is_file()]:
        for name in ("0", "1", "2"):
            (folder / name / path.name).write_bytes(path.read_bytes())
        path.unlink()
    return folder


def test_deep_pictures_are_predicted_as_they_are_evaluated(weights: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (32, 32), np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values * (255 / 4095)).round().astype(np.uint8)).save(tmp_path / "plain.png")
    found = []
    for name in ("deep.png", "plain.png"):
        (row,) = predict.run(weights=weights, inputs=[str(tmp_path / name)], **OPTIONS)["images"]
        found.append({each["label"]: each["value"] for each in row["predictions"]})
    assert found[0] == pytest.approx(found[1], rel=1e-4)
