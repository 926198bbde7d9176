"""Makes `flax.npz`: what Hugging Face's Flax classes give, with weights drawn from names and shapes.

    pip install transformers==4.56.2 flax==0.10.7 jax==0.6.2
    python -m tests.goldens.make_flax

transformers 5 has these classes no more.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    FlaxCLIPModel,
    FlaxDinov2ForImageClassification,
    FlaxResNetForImageClassification,
    FlaxViTForImageClassification,
    ResNetConfig,
    ViTConfig,
)

from tests.goldens import draws

FILE = Path(__file__).with_name("flax.npz")
IMAGES = (2, 32, 32, 3)
VIT = {
    **{"image_size": 32, "patch_size": 8, "hidden_size": 128, "num_hidden_layers": 2},
    "num_attention_heads": 4,
}
NUM_CLASSES, NUM_TOKENS, VOCABULARY = 5, 8, 50


def main() -> None:
    """Write the goldens."""
    shape = (1, *IMAGES[1:])
    labels = {"num_labels": NUM_CLASSES}
    vit = FlaxViTForImageClassification(ViTConfig(**VIT, intermediate_size=160, **labels), input_shape=shape)
    dinov2 = FlaxDinov2ForImageClassification(Dinov2Config(**VIT, mlp_ratio=2, **labels), input_shape=shape)
    resnet, basic = (
        FlaxResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1, 2], layer_type=kind, **labels),
            input_shape=shape,
        )
        for kind, widths in (("bottleneck", [32, 64]), ("basic", [8, 16]))
    )
    goldens: dict[str, np.ndarray] = {}
    models = {"flax_vit": vit, "flax_dinov2": dinov2, "flax_resnet": resnet, "flax_resnet_basic": basic}
    for name, model in models.items():
        params = _drawn(name, model, goldens)
        images = draws.images(name, IMAGES).transpose(0, 3, 1, 2)
        outputs = model(images, params=params, output_hidden_states=True)
        goldens[f"{name}/logits"] = np.asarray(outputs.logits)
        for index, states in enumerate(outputs.hidden_states):
            goldens[f"{name}/layers/{index}"] = draws.sampled(str(index), np.asarray(states))
    goldens |= _clip(goldens)
    made_with = {name: version(name) for name in ("transformers", "flax", "jax", "numpy")}
    goldens["made_with"] = np.array(json.dumps({"script": "tests/goldens/make_flax.py", **made_with}))
    np.savez_compressed(FILE, **goldens)
    sys.stdout.write(f"{len(goldens)} arrays, {FILE.stat().st_size} bytes, {made_with}\n")


def _clip(goldens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    vision = CLIPVisionConfig(**VIT, intermediate_size=160)
    text = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=NUM_TOKENS,
        eos_token_id=VOCABULARY - 1,
    )
    config = CLIPConfig.from_text_vision_configs(text, vision, projection_dim=24)
    model = FlaxCLIPModel(config, input_shape=((1, NUM_TOKENS), (1, *IMAGES[1:])))
    params = _drawn("flax_clip", model, goldens)
    ids = draws.generator("ids").integers(0, VOCABULARY - 1, (3, NUM_TOKENS))
    ids[:, -1] = VOCABULARY - 1
    images = draws.images("flax_clip", IMAGES).transpose(0, 3, 1, 2)
    outputs = model(input_ids=ids, pixel_values=images, params=params)
    found: dict[str, Any] = {"ids": ids, "image": outputs.image_embeds, "text": outputs.text_embeds}
    return {f"flax_clip/{name}": np.asarray(value) for name, value in found.items()}


def _drawn(name: str, model: Any, goldens: dict[str, np.ndarray]) -> Any:
    """Return drawn parameters, and note the names and shapes they are drawn by, and the config.json."""
    shapes = {key: tuple(value.shape) for key, value in flatten_dict(model.params, sep="/").items()}
    goldens[f"{name}/shapes"] = np.array(json.dumps(shapes))
    goldens[f"{name}/config"] = np.array(model.config.to_json_string())
    values = {key: draws.keras_tensor(name, key, shape) for key, shape in shapes.items()}
    return unflatten_dict(values, sep="/")


if __name__ == "__main__":
    main()
