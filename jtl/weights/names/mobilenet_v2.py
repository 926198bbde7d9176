"""MobileNetV2's tables of names: timm, torchvision, Hugging Face, Keras; how to recognise one.

timm nests units in stages as jtl does; the others count them through, which only the published numbers of
units (`mobilenet_v2.UNITS`) turn into stages. The first unit has no expansion.
"""

import re
from collections.abc import Mapping
from typing import Any

from jtl.models import mobilenet_v2
from jtl.weights.contract import FamilyNames, Op, Origin, Row
from jtl.weights.names import convnets_written, hub_config, ops, rows

INPUT_KERNEL = "params/conv_root/kernel"
PLACES = [(stage, unit) for stage, count in enumerate(mobilenet_v2.UNITS, 1) for unit in range(1, count + 1)]
TARGETS = tuple(f"block{stage}/unit{unit}" for stage, unit in PLACES)


def _kernel(source: str, target: str, op: Op = ops.CONV) -> Row:
    return Row(source, (f"params/{target}/kernel",), op)


def _torch(convs: Mapping[str, str], norms: Mapping[str, str]) -> tuple[Row, ...]:
    """Return the rows of PyTorch convolutions without bias and of batch normalisations: source → target."""
    return (
        *(_kernel(f"{source}.weight", target) for source, target in convs.items()),
        *(row for source, target in norms.items() for row in rows.batch_norm(source, target)),
    )


def _timm_unit(source: str, target: str, layers: Mapping[str, str]) -> tuple[Row, ...]:
    """Return the rows of a unit, whose layers are given as source's convolution → jtl's layer, in order."""
    names = enumerate(layers.items(), 1)
    pairs = [(conv, f"bn{number}", layer) for number, (conv, layer) in names]
    return _torch(
        {f"{source}.{conv}": f"{target}/conv_{layer}" for conv, _, layer in pairs},
        {f"{source}.{norm}": f"{target}/bn_{layer}" for _, norm, layer in pairs},
    )


FIRST = {"conv_dw": "depthwise", "conv_pw": "project"}
OTHERS = {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}
TIMM_UNITS = {f"blocks.{stage}.{{u}}": f"block{stage + 1}/unit{{u+1}}" for stage in range(1, 7)}
TIMM = Origin(
    title="timm names",
    rows=(
        *_torch({"conv_stem": "conv_root", "conv_head": "conv_final"}, {"bn1": "bn_root", "bn2": "bn_final"}),
        *_timm_unit("blocks.0.0", "block1/unit1", FIRST),
        *(row for source, target in TIMM_UNITS.items() for row in _timm_unit(source, target, OTHERS)),
        *rows.dense("classifier", "head"),
    ),
    left_out=rows.counters("bn{c}", "blocks.{s}.{u}.bn{c}"),
)


def _torchvision_unit(number: int, target: str) -> tuple[Row, ...]:
    source, layers = f"features.{number}.conv", ("expand", "depthwise", "project")
    layers = layers[1:] if number == 1 else layers
    last = len(layers) - 1
    convs = {f"{source}.{place}.0": f"{target}/conv_{layer}" for place, layer in enumerate(layers[:-1])}
    norms = {f"{source}.{place}.1": f"{target}/bn_{layer}" for place, layer in enumerate(layers[:-1])}
    return _torch(
        convs | {f"{source}.{last}": f"{target}/conv_project"},
        norms | {f"{source}.{last + 1}": f"{target}/bn_project"},
    )


TORCHVISION = Origin(
    title="torchvision names",
    rows=(
        *_torch(
            {"features.0.0": "conv_root", "features.18.0": "conv_final"},
            {"features.0.1": "bn_root", "features.18.1": "bn_final"},
        ),
        *(row for number, target in enumerate(TARGETS, 1) for row in _torchvision_unit(number, target)),
        *rows.dense("classifier.1", "head"),
    ),
    left_out=rows.counters("features.{i}.{c}", "features.{i}.conv.{c}", "features.{i}.conv.{c}.{d}"),
)


def _hugging_face(source: str, target: str) -> tuple[Row, ...]:
    conv, norm = (target.replace("*", kind) for kind in ("conv", "bn"))
    return _torch({f"{source}.convolution": conv}, {f"{source}.normalization": norm})


HUGGING_FACE_LAYERS = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
HUGGING_FACE_UNITS = {
    "conv_stem": TARGETS[0],
    **{f"layer.{index}": each for index, each in enumerate(TARGETS[1:])},
}
HUGGING_FACE = Origin(
    title="Hugging Face names",
    prefix="mobilenet_v2.",
    rows=(
        *_hugging_face("conv_stem.first_conv", "*_root"),
        *(
            row
            for unit, target in HUGGING_FACE_UNITS.items()
            for source, layer in HUGGING_FACE_LAYERS.items()
            if (target, layer) != (TARGETS[0], "expand")
            for row in _hugging_face(f"{unit}.{source}", f"{target}/*_{layer}")
        ),
        *_hugging_face("conv_1x1", "*_final"),
        *rows.dense("classifier", "head"),
    ),
    left_out=rows.counters(
        "conv_1x1.normalization",
        *(f"conv_stem.{layer}.normalization" for layer in ("first_conv", *HUGGING_FACE_LAYERS)),
        *(f"layer.{{i}}.{layer}.normalization" for layer in HUGGING_FACE_LAYERS),
    ),
    config_fields={"padding": "same", "norm_epsilon": 1e-3},
)


def _keras_unit(source: str, target: str) -> tuple[Row, ...]:
    return (
        *(
            row
            for layer in ("expand", "depthwise", "project")
            for row in rows.keras_batch_norm(f"{source}_{layer}_BN", f"{target}/bn_{layer}")
        ),
        _kernel(f"{source}_expand/kernel", f"{target}/conv_expand", ops.SAME),
        _kernel(f"{source}_depthwise/kernel", f"{target}/conv_depthwise", rows.DEPTHWISE),
        _kernel(f"{source}_project/kernel", f"{target}/conv_project", ops.SAME),
    )


KERAS = Origin(
    title="Keras names",
    rows=(
        _kernel("Conv1/kernel", "conv_root", ops.SAME),
        *rows.keras_batch_norm("bn_Conv1", "bn_root"),
        *_keras_unit("expanded_conv", TARGETS[0]),
        *(
            row
            for index, target in enumerate(TARGETS[1:], 1)
            for row in _keras_unit(f"block_{index}", target)
        ),
        _kernel("Conv_1/kernel", "conv_final", ops.SAME),
        *rows.keras_batch_norm("Conv_1_bn", "bn_final"),
        *rows.keras_layer("predictions", "head"),
    ),
    config_fields={"padding": "same", "norm_epsilon": 1e-3, "norm_momentum": 0.999},
)

MODEL_TYPE = "mobilenet_v2"
TIMM_ARCHITECTURE = re.compile(r"mobilenetv2_\d+d?")
# What transformers' MobileNetV2 can be that is none, or that no published weights are.
HUGGING_FACE_SETTINGS = {
    "hidden_act": "relu6",
    "expand_ratio": 6.0,
    "depth_divisible_by": 8,
    "min_depth": 8,
    "output_stride": 32,
    "first_layer_is_expansion": True,
    "finegrained_output": True,
}


def of_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a `config.json` says of a MobileNetV2 beyond its tensors; None where it is of another.

    Raises:
        UserError: it describes one that jtl has not got.
    """
    if values.get("model_type") == MODEL_TYPE:
        hub_config.refuse_others(values, HUGGING_FACE_SETTINGS, "MobileNetV2s")
        fields: dict[str, Any] = {"padding": "same" if values.get("tf_padding", True) else "torch"}
        fields["norm_epsilon"] = float(values.get("layer_norm_eps", 1e-3))
        image_px = values.get("image_size", 224)
        return fields | {"image_px": image_px if isinstance(image_px, int) else tuple(image_px)}
    is_known = TIMM_ARCHITECTURE.fullmatch(str(values.get("architecture", "")))
    return hub_config.timm_image_px(values) if is_known else None


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], str] | None:
    """Return settings and title of the MobileNetV2 with these leaves; None where they are none of its."""
    project = "params/block{}/unit1/conv_project/kernel"
    if INPUT_KERNEL not in shapes or project.format(1) not in shapes:
        return None
    places = [name.split("/")[1] for name in shapes if name.endswith("/conv_project/kernel")]
    stages = range(1, len(mobilenet_v2.CHANNELS) + 1)
    units = tuple(count for stage in stages if (count := places.count(f"block{stage}")))
    found = [shapes[INPUT_KERNEL][-1]]
    found += [shapes.get(project.format(stage), (0,))[-1] for stage in range(1, len(units) + 1)]
    final = shapes.get("params/conv_final/kernel", (0,))[-1]
    for name, size in mobilenet_v2.SIZES.items():
        if size["units"] == units and _channels(size) == [*found, final]:
            return {"size": name}, f"MobileNetV2-{name}"
    # What every stage's channels together say of the multiplier that they are rounded from.
    for percent in range(10, 301, 5):
        fields = {"width": percent / 100, "units": units}
        if _channels(fields)[:-1] == found:
            title = f"MobileNetV2 of width {fields['width']} and units {units}"
            return {"size": "100", **fields, "final_channels": final}, title
    return None


def _channels(fields: Mapping[str, Any]) -> list[int]:
    """Return the channels of the root, of each stage and of the last convolution of a model."""
    full = mobilenet_v2.resolve(mobilenet_v2.Config(**fields))
    return mobilenet_v2.channels(full)


NAMES = FamilyNames(
    origins={"timm": TIMM, "torchvision": TORCHVISION, "huggingface": HUGGING_FACE, "keras": KERAS},
    marker=INPUT_KERNEL,
    input_kernel=INPUT_KERNEL,
    recognise=recognise,
    of_config=of_config,
    writers=convnets_written.MOBILENET_WRITERS,
)
