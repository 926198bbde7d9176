"""The script that made `vit.npz`: variants of ViTs with drawn weights, and resampled position embeddings.

Run as `python -m tests.goldens.make_vit` with torch 2.13.0, timm 1.0.31, transformers 5.23.0 and scipy. The
names that Facebook's files have are read by timm's own `checkpoint_filter_fn`; those of transformers are the
files' that `save_pretrained` writes.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
import transformers
from safetensors.numpy import load_file, save_file
from torch import nn

from jtl.weights.names.assign import assign
from jtl.weights.names.vit_torch import ORIGINS
from tests.goldens import draws, make_clip, make_models

FILE = Path(__file__).parent / "vit.npz"
IMAGES, PATCH_PX, DIM, NUM_REGISTERS = (2, 32, 32, 3), 8, 128, 3
TIMM = {"img_size": 32, "patch_size": PATCH_PX, "embed_dim": DIM, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
TIMM |= {"num_classes": draws.NUM_CLASSES}
HUGGING_FACE = {"image_size": 32, "patch_size": PATCH_PX, "hidden_size": DIM, "num_hidden_layers": 2}
HUGGING_FACE |= {"num_attention_heads": 4, "num_labels": draws.NUM_CLASSES}
SCALED, WITH_REGISTERS = {"init_values": 1.0}, {"reg_tokens": NUM_REGISTERS, "no_embed_class": True}
VITS: dict[str, dict[str, Any]] = {
    "timm_dino": {"num_classes": 0},
    "timm_deit3": {**SCALED, "no_embed_class": True},
    "timm_dinov2": {**SCALED, "num_classes": 0},
    "timm_dinov2_registers": {**SCALED, **WITH_REGISTERS, "mlp_layer": "SwiGLUPacked", "mlp_ratio": 3},
    "timm_mae_tuned": {"global_pool": "avg", "fc_norm": True},
    "timm_gap_registers": {**WITH_REGISTERS, "global_pool": "avg", "class_token": False},
    "timm_placed_registers": {"reg_tokens": 3, "global_pool": "avg", "class_token": False, "fc_norm": False},
    "timm_map_registers": {**WITH_REGISTERS, "global_pool": "map", "class_token": False},
    "timm_clip": {"pre_norm": True, "act_layer": "quick_gelu", "norm_eps": 1e-5},
}
MLP = ("mlp.w12", "mlp.fc1"), ("mlp.w3", "mlp.fc2")
# Facebook's names, from timm's; the model of timm that reads them.
FACEBOOK: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "facebook_dinov2": ("timm_dinov2_registers", (*MLP, ("register_tokens", "reg_token"))),
    "facebook_deit3": ("timm_deit3", (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"))),
    "facebook_mae": ("timm_dino", ()),
}
DECODER = {"mask_token": (1, 1, 16), "decoder_pos_embed": (1, 17, 16), "decoder_embed.weight": (16, DIM)}
DECODER |= {"decoder_blocks.0.attn.qkv.weight": (48, 16), "decoder_blocks.1.mlp.fc2.bias": (16,)}
# Old grid, new grid, positions of class tokens. Images of 224 and 384 px in patches of 16 are the first.
GRIDS = (
    ((14, 14), (24, 24), 1),
    ((14, 14), (24, 24), 2),
    ((14, 14), (12, 20), 1),
    ((24, 24), (14, 14), 0),
    ((37, 37), (16, 16), 1),
    ((6, 4), (5, 9), 2),
)


def main() -> None:
    """Write the goldens."""
    transformers.logging.set_verbosity_error()
    timm = make_models.import_timm()
    goldens: dict[str, np.ndarray] = {}
    for name in VITS:
        model = make_models.drawn(timm_model(timm, name), name, goldens)
        goldens |= evaluated(model, name, make_models.vit_layers(model))
    distilled = timm.models.deit.VisionTransformerDistilled(**TIMM)
    distilled = make_models.drawn(distilled, "timm_distilled", goldens)
    goldens |= evaluated(distilled, "timm_distilled", make_models.vit_layers(distilled))
    for name, (template, renamed) in FACEBOOK.items():
        goldens |= facebook(timm, name, timm_model(timm, template), renamed)
    for name, model in hugging_face_models().items():
        goldens |= hugging_face(name, model)
    goldens |= positions(timm)
    goldens["architectures"] = np.array(json.dumps(architectures(timm)))
    made_with = {"script": "tests/goldens/make_vit.py", "torch": torch.__version__, "numpy": np.__version__}
    made_with |= {each.__name__: each.__version__ for each in (timm, transformers, scipy)}
    goldens["made_with"] = np.array(json.dumps({**made_with, "python": sys.version.split()[0]}))
    np.savez_compressed(FILE, **goldens)
    sys.stdout.write(f"{len(goldens)} arrays, {FILE.stat().st_size} bytes, {made_with}\n")


def timm_model(timm: Any, name: str) -> Any:
    """Return timm's model of that name in `VITS`."""
    settings = {**TIMM, **VITS[name]}
    if settings.get("mlp_layer"):
        settings |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    if "norm_eps" in settings:
        settings["norm_layer"] = partial(nn.LayerNorm, eps=settings.pop("norm_eps"))
    return timm.models.vision_transformer.VisionTransformer(**settings)


def evaluated(model: nn.Module, name: str, layers: Mapping[str, nn.Module]) -> dict[str, np.ndarray]:
    """Return logits and samples of the layers that do something, in evaluation mode."""
    layers = {
        layer: each for layer, each in layers.items() if layer != "encoder_norm" or list(each.parameters())
    }
    images = make_models.torch_images(name, IMAGES)
    outputs, sampled = make_clip.watched(lambda: model.eval()(images), layers)
    return {
        f"{name}/logits": outputs.numpy(),
        **{f"{name}/layers/{layer}": values for layer, values in sampled.items()},
    }


def facebook(timm: Any, name: str, model: Any, renamed: tuple[tuple[str, str], ...]) -> dict[str, np.ndarray]:
    """Return the goldens of a file with Facebook's names, which timm's filter reads into its own model."""
    shapes = {}
    for key, value in model.state_dict().items():
        for theirs, ours in renamed:
            key = key.replace(ours, theirs)
        shapes[key] = tuple(value.shape)
    if name == "facebook_dinov2":
        shapes |= {"pos_embed": (1, 17, DIM), "mask_token": (1, DIM)}
    if name == "facebook_mae":
        shapes |= DECODER
    state = {key: torch.from_numpy(draws.tensor(name, key, shape)) for key, shape in shapes.items()}
    state = timm.models.vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    left = model.load_state_dict(state, strict=False)
    assert not left.missing_keys, left
    assert set(left.unexpected_keys) <= DECODER.keys(), left
    goldens = evaluated(model, name, make_models.vit_layers(model))
    return {**goldens, f"{name}/shapes": np.array(json.dumps(shapes))}


def hugging_face_models() -> dict[str, Any]:
    """Return tiny models of transformers."""
    plain = {**HUGGING_FACE, "intermediate_size": 2 * DIM}
    dinov2 = {**HUGGING_FACE, "mlp_ratio": 2}
    registers = {**dinov2, "num_register_tokens": NUM_REGISTERS}
    mae = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    mae = transformers.ViTMAEConfig(**plain, **mae, decoder_intermediate_size=16, mask_ratio=0.0)
    return {
        "hf_vit": transformers.ViTForImageClassification(
            transformers.ViTConfig(**plain, hidden_act="gelu_new")
        ),
        "hf_deit": transformers.DeiTForImageClassification(transformers.DeiTConfig(**plain)),
        "hf_deit_teacher": transformers.DeiTForImageClassificationWithTeacher(
            transformers.DeiTConfig(**plain)
        ),
        "hf_dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**dinov2)),
        "hf_dinov2_swiglu": transformers.Dinov2ForImageClassification(
            transformers.Dinov2Config(**dinov2, use_swiglu_ffn=True)
        ),
        "hf_dinov2_registers": transformers.Dinov2WithRegistersForImageClassification(
            transformers.Dinov2WithRegistersConfig(**registers)
        ),
        "hf_mae": transformers.ViTMAEForPreTraining(mae),
    }


def hugging_face(name: str, model: Any) -> dict[str, np.ndarray]:
    """Return the goldens of a model that reads drawn weights from a file as the hub has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save_pretrained(folder)
        shapes = {key: value.shape for key, value in load_file(path).items()}
        tensors = {key: draws.tensor(name, key, shape) for key, shape in shapes.items()}
        save_file(tensors, path, metadata={"format": "pt"})
        model = type(model).from_pretrained(folder).eval()
        config = (Path(folder) / "config.json").read_text()
    base = getattr(model, model.base_model_prefix, model)
    blocks = base.encoder.layer if hasattr(base, "encoder") else base.layers
    layers = {f"block{index}": block for index, block in enumerate(blocks)}
    layers |= {"encoder_norm": base.layernorm}
    images = {"pixel_values": make_models.torch_images(name, IMAGES)}
    if "mae" in name:
        # In the order of the patches nothing is masked or shuffled.
        images["noise"], model = torch.arange(16.0).expand(2, -1), base
    outputs, sampled = make_clip.watched(lambda: model(**images), layers)
    logits = outputs.logits if "logits" in outputs else outputs.last_hidden_state[:, 0]
    return {
        f"{name}/shapes": np.array(json.dumps(shapes)),
        f"{name}/config": np.array(config),
        f"{name}/logits": logits.numpy(),
        **{f"{name}/layers/{layer}": values for layer, values in sampled.items()},
    }


def architectures(timm: Any) -> dict[str, Any]:
    """Return what no tensor tells of timm's own ViTs, by name: width, heads, epsilon, GELU, image's side."""
    found: dict[str, Any] = {}
    kinds = (timm.models.vision_transformer.VisionTransformer, timm.models.deit.VisionTransformerDistilled)
    for name in timm.list_models(["vit_*", "deit*", "flexivit*", "eva_large*"]):
        with torch.device("meta"):
            model = timm.create_model(name)
        known = assign(ORIGINS["timm"], model.state_dict())
        is_pre_norm = isinstance(model.blocks[0], timm.models.vision_transformer.Block)
        if type(model) not in kinds or known.unknown or not is_pre_norm:
            continue
        block, patch_embed = model.blocks[0], model.patch_embed
        found[name] = {
            "dim": model.embed_dim,
            "heads": block.attn.num_heads,
            "epsilon": block.norm1.eps,
            "gelu": type(block.mlp.act).__name__,
            "image_px": patch_embed.img_size[0],
            "patch_px": patch_embed.patch_size[0],
        }
    return found


def positions(timm: Any) -> dict[str, np.ndarray]:
    """Return drawn position embeddings for other grids, by the libraries' own functions."""
    goldens: dict[str, np.ndarray] = {}
    for index, (old, new, prefix) in enumerate(GRIDS):
        table = draws.tensor("positions", str(index), (1, prefix + old[0] * old[1], 2))
        tensor = torch.from_numpy(table)
        bicubic = timm.layers.resample_abs_pos_embed(tensor, list(new), list(old), num_prefix_tokens=prefix)
        zoom = (new[0] / old[0], new[1] / old[1], 1)
        bilinear = scipy.ndimage.zoom(table[0, prefix:].reshape(*old, -1), zoom, order=1)
        goldens |= {
            f"positions/{index}/grids": np.array([*old, *new, prefix]),
            f"positions/{index}/bicubic": bicubic.numpy()[:, prefix:],
            f"positions/{index}/bilinear": bilinear.reshape(1, -1, table.shape[-1]),
        }
        if old[0] == old[1] and prefix == 1:
            goldens[f"positions/{index}/bicubic_plain"] = by_transformers(tensor, old, new)
    return goldens


def by_transformers(table: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Return a ViT's position embedding of a square grid for another, by transformers' own method."""
    sizes = {"hidden_size": table.shape[-1], "num_attention_heads": 1, "num_hidden_layers": 1}
    config = transformers.ViTConfig(**sizes, image_size=2 * old[0], patch_size=2, intermediate_size=1)
    embeddings = transformers.ViTModel(config).embeddings
    embeddings.position_embeddings = nn.Parameter(table)
    tokens = torch.zeros(1, 1 + new[0] * new[1], table.shape[-1])
    with torch.no_grad():
        return embeddings.interpolate_pos_encoding(tokens, 2 * new[0], 2 * new[1]).numpy()[:, 1:]


if __name__ == "__main__":
    main()
