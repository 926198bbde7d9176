"""How explanations are shown: pictures beside their inputs, tokens in colour."""

from pathlib import Path

import numpy as np
import pytest

from jtl.errors import UserError
from jtl.explain import examples, pictures, texts
from tests import tiny

TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokens" / "words" / "tokenizer.json"


def test_overlay_is_brightest_where_the_map_is_highest_and_grey_where_it_is_zero() -> None:
    pixels = np.full((16, 16, 3), (200, 40, 40), np.uint8)
    relevance = np.array([[0.0, 0.0], [0.0, 3.0]])
    over = pictures.overlaid(pixels, relevance).astype(int)
    assert np.ptp(over[0, 0]) == 0, "what does not matter has no colour"
    assert over[15, 15].sum() == over.sum(axis=-1).max() > over[0, 0].sum()
    assert np.ptp(over[8, 8]) > 0, "what matters little has a colour too"
    assert pictures.overlaid(pixels, -relevance).std() == 0


def test_picture_has_input_and_overlay_side_by_side_at_a_size_to_look_at() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 1), np.uint8)
    whole = pictures.beside(pixels, np.ones((2, 3)))
    assert whole.size == (2 * 12 * 28 + pictures.GAP, 8 * 28)
    left = np.asarray(whole)[::28, : 12 * 28 : 28]
    np.testing.assert_array_equal(left, np.repeat(pixels, 3, axis=-1))


def test_tokens_are_named_and_padding_is_left_out() -> None:
    import tokenizers

    from jtl.inputs import tokens

    preprocess = tokens.of_file(TOKENIZER, max_tokens=16)
    ids = tokenizers.Tokenizer.from_file(str(TOKENIZER)).encode("a good film").ids
    inputs = {"ids": np.array([*ids, 0]), "mask": np.array([True] * len(ids) + [False])}
    found = texts.pieces(inputs, preprocess, np.arange(len(ids) + 1.0))
    assert [piece.kind for piece in (found[0], found[1], found[-1])] == ["special", "text", "special"]
    assert [piece.value for piece in found] == list(range(len(ids)))
    assert "(special)" in texts.rows(found)[0][0]


def test_page_escapes_what_a_text_says() -> None:
    found = [texts.Piece("<script>", texts.TEXT, -1.0), texts.Piece("&", texts.TEXT, 0.5)]
    page = texts.page([("<b>", found)], is_signed=True, method="a method")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "blue against it" in page
    assert "blue against it" not in texts.page([], is_signed=False, method="a method")


def test_methods_and_classes_that_are_not_there_are_refused() -> None:
    parts = tiny.make_predictor("bert")
    assert examples.chosen(parts, "") == "integrated_gradients"
    with pytest.raises(UserError, match=r"'grad_cam', which models of family 'bert' do not offer; expected"):
        examples.chosen(parts, "grad_cam")
    with pytest.raises(UserError, match=r"'grad_kam'; expected one of .*; nearest: 'grad_cam'"):
        examples.chosen(parts, "grad_kam")
    assert (examples.output_of(parts, "bee"), examples.output_of(parts, "2")) == (1, 2)
    with pytest.raises(UserError, match=r"--class is 'bea', which is none of .* 3 classes; nearest: 'bee'"):
        examples.output_of(parts, "bea")
