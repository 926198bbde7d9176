"""Distillation: its penalty by hand, a teacher of another family, classes, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jtl import tree
from jtl.errors import UserError
from jtl.inputs import INPUTS, on_device
from jtl.inputs.preprocess import Preprocess
from jtl.models import MODELS
from jtl.strategies import Classifier, Context, distillation
from tests import tiny

MASK = np.asarray([True, True, False])


def _batch(parts: Any) -> dict[str, Any]:
    shape = (3, *parts.preprocess.image_px, parts.preprocess.num_channels)
    return {"train": {"inputs": jax.random.normal(jax.random.key(2), shape), "mask": MASK}}


def _outputs(model: Any, params: Any, model_state: Any, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return features and logits of the examples that count."""
    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    found = jax.jit(model.apply)(own, model_state, np.asarray(images))
    return np.array(found.features)[MASK], np.array(found.logits)[MASK]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _weights(num_before: int, num_after: int, filter_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return [after, before]: a filter as wide as the step between new pixels, where there is an image."""
    step = num_before / num_after
    centres = (np.arange(num_after) + 0.5) * step - 0.5
    found = filter_of(np.abs(np.arange(num_before) - centres[:, None]) / max(step, 1))
    return found / found.sum(1, keepdims=True)


def _cubic(t: np.ndarray) -> np.ndarray:
    """Keys 1981, with a = -0.5 as Pillow and PyTorch resample."""
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, inner, np.where(t < 2, outer, 0))


FILTERS = {"bilinear": lambda t: np.maximum(0, 1 - t), "bicubic": _cubic}


def _by_hand(images: Any, before: Preprocess, after: Preprocess, mode: str) -> np.ndarray:
    """Return normalised images as another pre-processing has them."""
    pixels = np.float64(images) * before.std + before.mean
    rows, columns = (
        _weights(*sizes, FILTERS[mode]) for sizes in zip(pixels.shape[1:3], after.image_px, strict=True)
    )
    resized = np.einsum("hy,wx,nyxc->nhwc", rows, columns, pixels)
    return ((resized - after.mean) / after.std).astype(np.float32)


@pytest.mark.parametrize("kind", ["l2", "cosine"])
def test_penalty_from_a_teacher_of_another_family(kind: str) -> None:
    """A ViT of 8 px, normalised by 0.5, teaches a ResNet of 16 px, normalised as ImageNet's are."""
    parts, params, model_state = tiny.make_parts(
        "resnet",
        "distillation",
        weight=0.7,
        temperature=3.0,
        feature_weight=0.2,
        feature_distance=kind,
    )
    batch = _batch(parts)
    value, reported = tiny.penalty_of(parts, params, model_state, batch)

    teacher = MODELS["vit"].build(MODELS["vit"].tiny(), 3)
    mode = teacher.preprocess.interpolation
    seen = _by_hand(batch["train"]["inputs"], parts.preprocess, teacher.preprocess, mode)
    guide, taught = _outputs(teacher, params["extra"]["teacher"]["params"], {}, seen)
    features, logits = _outputs(parts.model, params, model_state, batch["train"]["inputs"])
    soft = softmax(taught / 3.0, axis=-1)
    nats = (soft * (np.log(soft) - log_softmax(logits / 3.0, axis=-1))).sum(-1)
    divergence = 9.0 * float(nats.mean())
    projection = params["extra"]["projection"]
    assert projection["kernel"].shape == (32, 16)
    projected = features @ projection["kernel"] + projection["bias"]
    apart = {
        "l2": 0.5 * float(np.square(projected - guide).mean()),
        "cosine": 1 - float((_unit(projected) * _unit(guide)).sum(-1).mean()),
    }[kind]
    assert reported["teacher_divergence"] == pytest.approx(divergence, rel=1e-4)
    assert reported["teacher_distance"] == pytest.approx(apart, rel=1e-4)
    assert value == pytest.approx(0.7 * divergence + 0.2 * apart, rel=1e-4)


def test_a_model_that_is_its_teacher_has_nothing_to_learn_from_it() -> None:
    parts, params, model_state = tiny.make_parts("vit", "distillation", feature_weight=1.0)
    own = {name: leaf for name, leaf in params.items() if name != "extra"}
    value, reported = tiny.penalty_of(parts, params, model_state, _batch(parts))
    assert value > 1e-3
    params = {**own, "extra": {"teacher": {"params": own}}}
    value, reported = tiny.penalty_of(parts, params, model_state, _batch(parts))
    assert reported["teacher_distance"] == 0.0
    assert abs(value) < 1e-7


@pytest.mark.parametrize(("interpolation", "mode"), [("bilinear", "bilinear"), ("bicubic", "bicubic")])
@pytest.mark.parametrize("image_px", [(6, 10), (24, 20)])
def test_images_of_another_preprocessing_are_resampled_by_a_filter_as_wide_as_the_step(
    interpolation: str, mode: str, image_px: tuple[int, int]
) -> None:
    before = Preprocess((16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    after = Preprocess(image_px, interpolation=interpolation)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    found = on_device.renormalise(images, before, after)
    np.testing.assert_allclose(found, _by_hand(images, before, after, mode), atol=1e-5)
    assert on_device.renormalise(images, before, replace(before, resize_px=0)) is images


def test_classes_are_matched_by_name() -> None:
    """A teacher that knows the classes in another order, and more, teaches those of the task."""
    parts, params, model_state = _with_teacher_of(("c", "x", "a", "b"))
    head = params["extra"]["teacher"]["params"]["head"]
    assert head["kernel"].shape == (16, 4)
    _, reported = tiny.penalty_of(parts, params, model_state, _batch(parts))
    chosen = jax.tree.map(lambda leaf: leaf[..., [2, 3, 0]], head)
    parts, params, model_state = _with_teacher_of(("a", "b", "c"))
    params["extra"]["teacher"]["params"]["head"] = chosen
    _, plain = tiny.penalty_of(parts, params, model_state, _batch(parts))
    assert reported["teacher_divergence"] > 1e-3
    assert reported == pytest.approx(plain, rel=1e-5)


def _with_teacher_of(names: tuple[str, ...], num_channels: int = 3) -> tuple[Any, Any, Any]:
    """Return a tiny run whose teacher has these classes; those of the task are a, b and c."""
    parts, params, model_state = tiny.make_parts("vit")
    teacher = MODELS["vit"].build(MODELS["vit"].tiny(), len(names), num_channels)
    drawn, state = teacher.init(jax.random.key(1))
    drawn["head"]["kernel"] = np.random.default_rng(0).normal(size=(16, len(names))).astype(np.float32)
    context = tiny.make_context(parts.model, params, model_state, 1)._replace(
        classifier=lambda spec: Classifier(INPUTS["image"], teacher, drawn, state, names, teacher.preprocess)
    )
    strategy = distillation.build(distillation.Config(teacher="other"), context)
    extra = strategy.extra(jax.random.key(0), params, model_state)
    return parts._replace(strategy=strategy), {**params, "extra": extra}, model_state


def test_the_teacher_is_frozen_and_not_written() -> None:
    parts, params, _ = tiny.make_parts("resnet", "distillation", feature_weight=1.0)
    frozen = {name for name, group in parts.groups.items() if group.is_frozen}
    assert frozen == {name for name in tree.flatten(params) if name.startswith("extra/teacher/")}
    assert "extra/projection/kernel" in parts.groups
    own = {name: leaf for name, leaf in tree.flatten(params).items() if not name.startswith("extra/")}
    assert tree.flatten(parts.strategy.merged(params)) == own


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (
            ("a", "x"),
            3,
            r"does not know 2 of the task's 3 classes: b, c; it has a, x, … \(2\); give a teacher",
        ),
        (("a", "b", "c"), 1, r"model reads images of 3 channels, the other of 1; expected as many"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(names: Any, channels: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _with_teacher_of(names, channels)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"strategy.teacher is empty; expected a run folder"),
        ({"teacher": "x", "weight": -1.0}, r"strategy.weight is -1.0"),
        (
            {"teacher": "x", "temperature": 0.0},
            r"strategy.temperature is 0.0; expected a positive number",
        ),
        ({"teacher": "x", "feature_distance": "l1"}, r"strategy.feature_distance is 'l1'; expected one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    context = Context((("stem",), ("head",)), 1)
    with pytest.raises(UserError, match=message):
        distillation.build(distillation.Config(**fields), context)
