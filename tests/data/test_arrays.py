"""Images and labels in .npz files: which arrays are read, and what is said of bad ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jtl import memory
from jtl.data import Labels
from jtl.errors import UserError
from tests.data.conftest import pixels
from tests.data.test_open import open_kind

IMAGES = np.stack([pixels(seed, 4, 5) for seed in range(6)])
INTEGERS = np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "splits"),
    [
        ({"x_train": IMAGES, "y_train": INTEGERS, "x_test": IMAGES, "y_test": INTEGERS}, {"train", "test"}),
        (
            {
                "train_images": IMAGES,
                "train_labels": INTEGERS[:, None],
                "val_images": IMAGES,
                "val_labels": INTEGERS[:, None],
            },
            {"train", "val"},
        ),
        ({"images": IMAGES[..., 0], "labels": INTEGERS}, {"train"}),
    ],
)
def test_arrays_are_found_by_their_customary_names(
    tmp_path: Path, arrays: dict[str, np.ndarray], splits: set[str]
) -> None:
    np.savez(tmp_path / "set.npz", label_names=["ant", "bee"], **arrays)
    opened = open_kind("arrays", tmp_path / "set.npz", val_fraction=0.0)
    assert opened.keys() == splits
    for source in opened.values():
        assert source.info.label_names == ("ant", "bee")
        assert source.labels().tolist() == INTEGERS.tolist()
        assert source[0]["raw"].ndim == 3


def test_labels_of_arrays_may_be_large_have_gaps_and_be_kept_secret(tmp_path: Path) -> None:
    large = np.array([7, 2**40, 7, 12, 2**40, 12])
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=large, x_test=IMAGES, y_test=np.full(6, -1))
    splits = open_kind("arrays", tmp_path / "set.npz", val_fraction=0.0)
    assert splits.keys() == {"train"}
    assert splits["train"].info.label_names == ("7", "12", str(2**40))
    assert splits["train"].labels().tolist() == [0, 2, 0, 1, 2, 1]
    assert splits["train"].info.notes[0] == "test: left out, none of its 6 examples has a label"


def test_numbers_in_arrays_are_places_among_their_label_names(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "set.npz", label_names=["1", "0"], x_train=IMAGES, y_train=INTEGERS.astype(np.float32)
    )
    source = open_kind("arrays", tmp_path / "set.npz", val_fraction=0.0)["train"]
    assert source.labels().tolist() == INTEGERS.tolist()
    assert source.info.label_names == ("1", "0")
    np.savez(tmp_path / "set.npz", x_train=IMAGES[:0], y_train=INTEGERS[:0])
    with pytest.raises(UserError, match="the train split has no examples"):
        open_kind("arrays", tmp_path / "set.npz")


def test_arrays_are_found_by_given_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", train_a=IMAGES, train_b=INTEGERS)
    splits = open_kind("arrays", tmp_path / "set.npz", image_keys="{split}_a", label_keys="{split}_b")
    assert splits.keys() == {"train", "val"}


def test_array_labels_are_multi_hot_rows_or_numbers(tmp_path: Path) -> None:
    rows = np.eye(6, 3, dtype=np.int64)
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=rows)
    tags = open_kind("arrays", tmp_path / "set.npz", Labels("multilabel"), val_fraction=0.0)["train"]
    np.testing.assert_array_equal(tags.labels(), rows.astype(np.float32))
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=np.linspace(0, 1, 6, dtype=np.float32))
    numbers = open_kind("arrays", tmp_path / "set.npz", Labels("regression"), val_fraction=0.0)["train"]
    np.testing.assert_array_equal(numbers.labels()[:, 0], np.linspace(0, 1, 6, dtype=np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES}, "holds 'x_train' but no 'y_train'"),
        ({"pictures": IMAGES}, r"holds pictures; expected images as 'x_train' .*set data.image_keys"),
        ({"x_train": IMAGES / 255, "y_train": INTEGERS}, "train images are float64, expected uint8"),
        ({"x_train": IMAGES[0, 0], "y_train": INTEGERS}, r"train images have shape \(5, 3\)"),
        (
            {"x_train": IMAGES.transpose(0, 3, 1, 2), "y_train": INTEGERS},
            "channels first; expected them last",
        ),
        ({"x_train": IMAGES, "y_train": INTEGERS[:4]}, r"6 train images but labels of shape \(4,\)"),
        ({"x_train": IMAGES, "y_train": INTEGERS - 1}, "label out of range: .*train label 0 has -1"),
        (
            {"x_train": IMAGES, "y_train": np.array([{}] * 6, object)},
            "expected a complete .npz file of plain arrays",
        ),
        ({"x_test": IMAGES, "y_test": INTEGERS}, "holds test but no train split"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=message):
        open_kind("arrays", tmp_path / "set.npz")


def test_a_truncated_npz_is_one_clear_error_wherever_it_is_cut(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", x_train=IMAGES, y_train=INTEGERS)
    whole = (tmp_path / "set.npz").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "set.npz").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cannot read .*set.npz"):
            open_kind("arrays", tmp_path / "set.npz")


def test_a_text_file_as_npz_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_text("no archive")
    with pytest.raises(
        UserError, match=r"cannot read .*set.npz \(10 bytes\): File is not a zip file"
    ) as caught:
        open_kind("arrays", tmp_path / "set.npz")
    assert "pickle" not in str(caught.value)


def test_an_array_that_states_more_than_it_has_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=INTEGERS)
    with zipfile.ZipFile(tmp_path / "set.npz") as whole:
        entries = {name: whole.read(name) for name in whole.namelist()}
    for shape in ((6, 4, 5, 9), (9_999_999_999, 4, 5, 3)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "set.npz", "w") as changed:
            changed.writestr("x_train.npy", header.getvalue() + IMAGES.tobytes())
            changed.writestr("y_train.npy", entries["y_train.npy"])
        with pytest.raises(UserError, match=r"'x_train' has 360 bytes, and its shape \(.*\) of uint8 needs"):
            open_kind("arrays", tmp_path / "set.npz")


def test_arrays_beyond_memory_are_refused_with_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=INTEGERS)
    monkeypatch.setattr(memory, "host_bytes", lambda: 400)
    with pytest.raises(
        UserError, match=r"reading .*set.npz wants 408 bytes of memory and there are 400 bytes"
    ):
        open_kind("arrays", tmp_path / "set.npz")


def test_a_flipped_bit_in_an_npz_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=INTEGERS)
    whole = bytearray((tmp_path / "set.npz").read_bytes())
    whole[300] ^= 1
    (tmp_path / "set.npz").write_bytes(whole)
    with pytest.raises(UserError, match=r"cannot read .*set.npz"):
        open_kind("arrays", tmp_path / "set.npz")


def test_a_single_array_file_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", IMAGES)
    with pytest.raises(UserError, match=r"is a single array, expected an .npz file"):
        open_kind("arrays", tmp_path / "set.npy")
