"""Fine-tune CLIP on a folder of images, beginning with the zero-shot classifier that the class names give.

    python -m jtl.main --config configs/clip_ft.py --config.data.path=/path/to/folder
    python -m jtl.main --config configs/clip_ft.py:hf://google/siglip-base-patch16-224 --config.data.path=...

The head is made of the folder's class names by the text tower of the same weights (`jtl[zero-shot]` reads
its tokenizer); name the folders as a caption would. Prompts of your own:
--config.weights.templates="('an aerial photo of {}.',)". One GPU of 16 GB.
"""

from ml_collections import ConfigDict


def get_config(argument: str = "") -> ConfigDict:
    """Return the recipe; `argument` are the weights, "" OpenAI's CLIP of ViT-B/32."""
    weights = argument or "hf://openai/clip-vit-base-patch32"
    return ConfigDict(
        {
            "model": {"name": "auto", "weights": weights, "has_unit_features": True},
            "weights": {"head": "zero_shot"},
            "data": {"path": ""},
            "augment": {"crop_scale": (0.5, 1.0)},
            "optim": {"learning_rate": 1e-5, "weight_decay": 0.1, "layer_decay": 0.75},
            "train": {"epochs": 10.0, "batch_size": 64},
        }
    )
