"""Measures how far models are from the libraries of their weights, and writes the table of docs/results.md.

    python -m benchmarks.parity

Runs the tests that compare with goldens and notes the largest error of every comparison they make: of layers
relative to the largest value of the layer, of logits absolute.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

TESTS_FOLDER = Path(__file__).parents[1] / "tests"
PAGE = TESTS_FOLDER.parent / "docs" / "results.md"
BEGIN, END = "<!-- parity: python -m benchmarks.parity -->", "<!-- parity ends -->"
NAMES = (
    *("models/test_clip", "models/test_convnets", "models/test_goldens", "models/test_vit_variants"),
    "weights/test_flax_hub",
)
TESTS = [str(TESTS_FOLDER / f"{name}.py") for name in NAMES]
COMPARING = "layer_by_layer or public_weights or in_training or is_the_librarys_with_its_statistics"
TRAINING = re.compile("training")


class Place(NamedTuple):
    """A row of the table: a family and an origin of its names."""

    family: str
    origin: str


class Errors:
    """A pytest plugin that notes the errors of every `assert_allclose`, by golden."""

    def __init__(self) -> None:
        self.layers: dict[str, float] = defaultdict(float)
        self.logits: dict[str, float] = defaultdict(float)
        self.training: dict[str, float] = defaultdict(float)
        self._golden, self._is_training = "", False

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note which golden the coming comparisons are with."""
        self._golden = item.name.partition("[")[2].rstrip("]")
        self._is_training = TRAINING.search(item.name) is not None

    def compare(self, found: Any, golden: Any, rtol: float = 1e-7, atol: float = 0, **rest: Any) -> None:
        """Note the error, then compare as numpy does."""
        error = float(np.abs(np.asarray(found, np.float64) - np.asarray(golden, np.float64)).max())
        if self._is_training:
            self.training[self._golden] = max(self.training[self._golden], error)
        elif rest.get("err_msg"):
            relative = error / float(np.abs(golden).max())
            self.layers[self._golden] = max(self.layers[self._golden], relative)
        else:
            self.logits[self._golden] = max(self.logits[self._golden], error)
        ASSERT(found, golden, rtol=rtol, atol=atol, **rest)


ASSERT = np.testing.assert_allclose


def main() -> None:
    """Run the tests, write the table into docs/results.md, and print it."""
    errors = Errors()
    np.testing.assert_allclose = errors.compare  # type: ignore[assignment]
    code = pytest.main(["-q", "-k", COMPARING, *TESTS], plugins=[errors])
    if code:
        sys.exit(int(code))
    table = "\n".join(_rows(errors))
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.stdout.write(f"{table}\n")


def place(golden: str) -> Place:
    """Return the family and the origin's key that a golden is of."""
    # Not before pytest has put its type checks around jtl.
    from tests.models import test_clip, test_convnets, test_goldens, test_vit_variants
    from tests.weights import test_flax_hub

    if golden in test_convnets.CASES:
        origin, config = test_convnets.CASES[golden]
        return Place(config.name, origin)
    if golden in test_vit_variants.VARIANTS:
        return Place("vit", test_vit_variants.VARIANTS[golden][0])
    if golden in test_clip.ORIGINS:
        return Place("vit and text tower", test_clip.ORIGINS[golden])
    if golden in test_flax_hub.CLASSIFIERS:
        return Place(test_flax_hub.CLASSIFIERS[golden], golden)
    if golden in test_goldens.RESNETS:
        return Place("resnet", "torchvision")
    if golden in test_goldens.VITS:
        return Place("vit", "timm")
    family = test_goldens.REAL[golden][0].name
    return Place(
        family, "timm, public weights" if family == "vit" else "pytorch_resnet_cifar10, public weights"
    )


def _rows(errors: Errors) -> list[str]:
    goldens = sorted(errors.logits, key=lambda golden: (*place(golden), golden))
    groups: dict[Place, list[str]] = defaultdict(list)
    for golden in goldens:
        groups[place(golden)].append(golden)
    rows = [
        "| family | names of | models | worst layer, relative | logits, absolute | in training |",
        "|---|---|---|---|---|---|",
    ]
    for where, members in groups.items():
        worst = [_worst(found, members) for found in (errors.layers, errors.logits, errors.training)]
        rows.append(f"| `{where.family}` | {where.origin} | {len(members)} | {' | '.join(worst)} |")
    return rows


def _worst(found: dict[str, float], goldens: list[str]) -> str:
    values = [found[golden] for golden in goldens if golden in found]
    return f"{max(values):.1e}" if values else ""


if __name__ == "__main__":
    main()
