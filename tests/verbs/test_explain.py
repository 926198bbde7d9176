"""`jtl explain`: pictures, pages and arrays of what a class hangs on, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.errors import UserError
from jtl.verbs import explain, predict

OPTIONS: dict[str, Any] = {
    "batch_size": 2,
    "overrides": (("sharding.devices", "1"), ("model.image_px", "16")),
}


def test_every_image_has_a_picture_and_a_name_of_its_own(weights: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    twice = tmp_path / "0.png"
    twice.write_bytes((photos / "bees" / "0.png").read_bytes())
    found = explain.run(weights=weights, inputs=(str(photos), str(twice)), out=str(out), **OPTIONS)
    assert found["method"] == "grad_cam"
    assert sorted(path.name for path in out.iterdir()) == [
        *("0-2.png", "0.png", "1.png", "2.png", "3.png", "4.png")
    ]
    expected = predict.run(weights=weights, inputs=(str(photos),), top=1, **OPTIONS)
    for row, told in zip(found["images"], expected["images"], strict=False):
        assert row["index"] == told["predictions"][0]["index"]
        assert row["value"] == pytest.approx(told["predictions"][0]["value"], abs=1e-5)
    with Image.open(found["images"][0]["picture"]) as picture:
        assert picture.size[0] > 2 * 224


def test_arrays_hold_the_map_of_the_class_that_is_asked_for(
    weights: str, photos: Path, tmp_path: Path
) -> None:
    found = {}
    for name in ("0", "2"):
        out = tmp_path / f"{name}.npz"
        explain.run(weights=weights, inputs=(str(photos),), out=str(out), class_name=name, **OPTIONS)
        with np.load(out) as file:
            found[name] = dict(file)
    assert found["0"]["relevance"].shape == (5, *found["2"]["relevance"].shape[1:])
    assert found["0"]["index"].tolist() == [0] * 5
    assert found["0"]["inputs"].shape == (5, 16, 16, 3)
    assert np.any(found["0"]["relevance"] != found["2"]["relevance"])


def test_unreadable_image_is_named_and_the_others_explained(
    weights: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    given = (str(tmp_path / "broken.png"), str(photos / "bees" / "0.png"))
    found = explain.run(weights=weights, inputs=given, out=str(tmp_path / "out"), **OPTIONS)
    assert ["error" in row for row in found["images"]] == [True, False]
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read .*broken.png"):
        predict.check_readable(found)


def test_place_that_cannot_be_written_is_refused(weights: str, photos: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"weights": weights, "inputs": (str(photos),), **OPTIONS}
    with pytest.raises(UserError, match=r"ends in '.html'; for images expected one of none"):
        explain.run(out=str(tmp_path / "x.html"), **given)
    with pytest.raises(UserError, match=r"folder .*nowhere' is not there; make it first"):
        explain.run(out=str(tmp_path / "nowhere" / "x.npz"), **given)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file' is a file already; give another name"):
        explain.run(out=str(tmp_path / "file"), **given)
