"""The operations that vary training images, and the policies that choose among them."""

import numpy as np
import pytest
from PIL import Image

from jtl.inputs import policy
from tests.data.conftest import pixels

TABLES = {"randaugment": policy.RANDAUGMENT, "trivialaugment": policy.TRIVIALAUGMENT}
PICTURES = {"RGB": Image.fromarray(pixels(0, 16, 16)), "L": Image.fromarray(pixels(0, 16, 16)[..., 0])}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("mode", PICTURES)
def test_operations_keep_the_size_and_mode(name: str, mode: str) -> None:
    for operation in TABLES[name].values():
        for strength in (0.0, 0.5, 1.0):
            for sign in (-1, 1) if operation.is_signed else (1,):
                found = operation.apply(PICTURES[mode], sign * strength * operation.reach)
                assert found.size == PICTURES[mode].size
                assert found.mode == mode


@pytest.mark.parametrize("name", TABLES)
def test_operations_of_strength_zero_leave_the_image_alone(name: str) -> None:
    for key, operation in TABLES[name].items():
        if key in ("autocontrast", "equalize"):  # these have no strength
            continue
        np.testing.assert_array_equal(operation.apply(PICTURES["RGB"], 0.0), PICTURES["RGB"], err_msg=key)


@pytest.mark.parametrize("name", TABLES)
def test_operations_at_full_strength_change_the_image(name: str) -> None:
    narrow = Image.fromarray(pixels(0, 16, 16) // 4 + 90)
    for key, operation in TABLES[name].items():
        if key != "identity":
            assert (np.asarray(operation.apply(narrow, operation.reach)) != np.asarray(narrow)).any(), key


def test_rotation_and_translation_move_what_they_say() -> None:
    dot = np.zeros((20, 20), np.uint8)
    dot[10, 10] = 255
    picture = Image.fromarray(dot)
    for name in ("shear_x", "shear_y", "rotate"):
        turned = np.asarray(policy.TRIVIALAUGMENT[name].apply(picture, 0.3))
        assert np.abs(np.argwhere(turned == turned.max()) - 10).max() <= 1, "the centre stays"
    moved = np.asarray(policy.RANDAUGMENT["translate_x"].apply(picture, 0.25))
    assert np.argwhere(moved == 255).tolist() == [[10, 5]]
    moved = np.asarray(policy.RANDAUGMENT["translate_y"].apply(picture, 0.25))
    assert np.argwhere(moved == 255).tolist() == [[5, 10]]


def test_solarize_at_full_strength_inverts_and_posterize_drops_bits() -> None:
    picture = PICTURES["RGB"]
    np.testing.assert_array_equal(
        policy.RANDAUGMENT["solarize"].apply(picture, 256), 255 - np.asarray(picture)
    )
    np.testing.assert_array_equal(
        policy.RANDAUGMENT["posterize"].apply(picture, 4), np.asarray(picture) & 0xF0
    )


@pytest.mark.parametrize("name", policy.POLICIES)
def test_a_policy_is_a_function_of_its_generator(name: str) -> None:
    draws = [
        np.asarray(
            policy.POLICIES[name](PICTURES["RGB"], np.random.default_rng(seed), num_ops=2, magnitude=5.0)
        )
        for seed in (3, 3, 4, 5, 6)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert any((draws[0] != each).any() for each in draws[2:]) == (name != "none")


def test_jitter_of_strength_zero_leaves_the_image_alone() -> None:
    np.testing.assert_array_equal(
        policy.jitter(PICTURES["RGB"], 0.0, np.random.default_rng(0)), PICTURES["RGB"]
    )


def test_jitter_stays_within_its_strength() -> None:
    flat = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
    found = [np.asarray(policy.jitter(flat, 0.2, np.random.default_rng(seed))).mean() for seed in range(200)]
    assert 79 <= min(found) < 84
    assert 116 < max(found) <= 121
