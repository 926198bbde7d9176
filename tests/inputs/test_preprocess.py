"""The pre-processing of images as it is written down: what prepares no image is refused where it is read."""

import pytest

from jtl.errors import UserError
from jtl.inputs.preprocess import Preprocess


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interpolation": "cubicle"}, r"preprocess.interpolation is 'cubicle'; expected one of 'bicubic'"),
        ({"interpolation": "x" * 1000}, r"preprocess.interpolation is 'x+…"),
        ({"image_px": (0, 224)}, r"preprocess.image_px is \(0, 224\); expected 1 <= value <= 65536 for each"),
        ({"resize_px": -1}, r"preprocess.resize_px is -1; expected 0 <= value <= 65536"),
        (
            {"std": (0.2, 0.0, 0.2)},
            r"preprocess.std is \(0.2, 0.0, 0.2\); expected a positive number for each",
        ),
        ({"mean": (0.5, float("nan"), 0.5)}, "preprocess.mean is .*; expected a number"),
        ({"mean": (0.5,)}, "preprocess.mean has 1 values and preprocess.std 3; expected as many"),
        ({"mean": (), "std": ()}, "preprocess.mean has 0 values and preprocess.std 0"),
        ({"white_level": -1.0}, "preprocess.white_level is -1.0; expected 0 or more"),
        ({"background": 256}, "preprocess.background is 256; expected 0 <= value <= 255"),
    ],
)
def test_values_that_no_preprocessing_has_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess(**values)
