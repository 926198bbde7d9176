"""Resampled position embeddings and adapted channels equal their references."""

from pathlib import Path

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.weights import fit

GOLDENS = Path(__file__).parents[1] / "goldens" / "weights"
NUM_GRIDS = 5


@pytest.mark.parametrize("index", range(NUM_GRIDS))
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_resampling_equals_its_reference(mode: str, index: int) -> None:
    with np.load(GOLDENS / "position_embeddings.npz") as golden:
        assert len(golden.files) == 1 + 4 * NUM_GRIDS
        old, new = golden[f"{index}/grids"].tolist()
        table, expected = golden[f"{index}/table"], golden[f"{index}/{mode}"]
    found = fit.resample(table, 1, tuple(old), tuple(new), mode)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", fit.RESAMPLERS)
def test_resampling_keeps_constants_and_prefix(mode: str) -> None:
    table = np.ones((1, 2 + 12, 4), np.float32)
    table[:, :2] = 7
    found = fit.resample(table, 2, (3, 4), (5, 2), mode)
    assert found.shape == (1, 2 + 10, 4)
    np.testing.assert_array_equal(found[:, :2], 7)
    np.testing.assert_allclose(found[:, 2:], 1, atol=1e-6)


@pytest.mark.parametrize("mode", fit.RESAMPLERS)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_resampling_to_the_same_size_is_identity(mode: str, size: int) -> None:
    np.testing.assert_allclose(fit.RESAMPLERS[mode](size, size), np.eye(size), atol=1e-12)


def test_rows_and_columns_are_not_confused() -> None:
    table = np.tile(np.arange(2, dtype=np.float32)[:, None], (1, 3)).reshape(1, 6, 1)
    found = fit.resample(table, 0, (2, 3), (2, 5), "bilinear")
    np.testing.assert_allclose(found.reshape(2, 5), [[0] * 5, [1] * 5], atol=1e-6)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 5, 7])
def test_channels_equal_timm(num_channels: int) -> None:
    with np.load(GOLDENS / "input_channels.npz") as golden:
        kernel, expected = golden["kernel"], golden[f"to_{num_channels}"]
    found = fit.adapt_channels(kernel.transpose(2, 3, 1, 0), num_channels)
    np.testing.assert_allclose(found, expected.transpose(2, 3, 1, 0), atol=1e-6)


@pytest.mark.parametrize("num_source", [1, 3, 4])
@pytest.mark.parametrize("num_channels", [1, 2, 3, 6])
def test_equal_channels_give_equal_activations(num_source: int, num_channels: int) -> None:
    kernel = np.broadcast_to(np.float32([[[[2.0]]]]), (1, 1, num_source, 1))
    assert fit.adapt_channels(kernel, num_channels).sum() == pytest.approx(kernel.sum())


def test_strict_channels_refuse() -> None:
    with pytest.raises(
        UserError, match=r"read 3 image channels and the model 1; set weights.channels='auto'"
    ):
        fit.CHANNELS["strict"](np.ones((1, 1, 3, 1), np.float32), 1)
