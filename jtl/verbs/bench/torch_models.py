"""The same models in PyTorch: by timm for images, by transformers for texts, with random weights.

A name below is timm's (1.0.31) for the architecture that a family and size of jtl are; ViTs and BERTs are
built from their dimensions. Whether both are one model is checked by their number of parameters.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jtl.errors import UserError
from jtl.verbs.bench import empty_torchvision

EXTRA = "pip install 'jtl[bench]'"
RESNETS = {
    **{size: f"resnet{size}" for size in ("18", "34", "50", "101", "152")},
    **{f"{size}d": f"resnet{size}d" for size in ("18", "34", "50", "101", "152")},
}
CONVNEXTS = {
    size: f"convnext_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large")
}


class Made(NamedTuple):
    """A model in PyTorch: `classifier` are the parameters of its head, `notes` lines for people."""

    module: Any
    classifier: list[Any]
    notes: list[str]


def make(settings: Any, num_outputs: int, image_px: tuple[int, int]) -> Made:
    """Return the model of a configuration in PyTorch.

    Raises:
        UserError: a library is missing, or the table below has no such model.
    """
    family = settings.model.name
    if family not in BUILDERS:
        raise UserError(
            f"--against torch knows no model like model.name {family!r}; expected {', '.join(BUILDERS)}"
        )
    # Only timm asks for it.
    notes = empty_torchvision.in_place() if any(image_px) else []
    module = BUILDERS[family](settings.model, num_outputs, image_px)
    head = module.get_classifier()
    return Made(module, list(head.parameters()), notes)


def check_same(made: Made, num_parameters: int, name: str) -> None:
    """Check that both models have as many parameters.

    Raises:
        UserError: they have not.
    """
    found = sum(each.numel() for each in made.module.parameters())
    if found != num_parameters:
        raise UserError(
            f"{name} has {num_parameters:,} parameters and PyTorch's has {found:,}: they are not one model; "
            f"leave out the settings of model.* that its size has not"
        )


def imported(name: str) -> Any:
    """Import a library of the extra `bench`.

    Raises:
        UserError: it is not there, or does not work.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"--against torch needs {name}, which cannot be imported ({error}): {EXTRA}"
        ) from error


def _vit(config: Any, num_outputs: int, image_px: tuple[int, int]) -> Any:
    from jtl.models import MODELS

    full = MODELS[config.name].resolve(config)
    transformer = imported("timm.models.vision_transformer")
    return transformer.VisionTransformer(
        img_size=image_px,
        patch_size=full.patch_px,
        num_classes=num_outputs,
        embed_dim=full.dim,
        depth=full.depth,
        num_heads=full.heads,
        mlp_ratio=full.mlp_dim / full.dim,
        qkv_bias=full.has_qkv_bias,
        init_values=1e-5 if full.has_layer_scale else None,
        class_token=full.has_class_token,
        reg_tokens=full.num_registers,
        global_pool={"cls": "token", "gap": "avg", "map": "map"}.get(full.pool, "token"),
        pre_norm=full.has_pre_norm,
        drop_path_rate=full.drop_path,
        proj_drop_rate=full.dropout,
    )


def _named(names: Mapping[str, str]) -> Callable[[Any, int, tuple[int, int]], Any]:
    def build(config: Any, num_outputs: int, image_px: tuple[int, int]) -> Any:
        del image_px
        if config.size not in names:
            raise UserError(
                f"--against torch knows no model like {config.name} {config.size!r}; expected a size of "
                f"{', '.join(names)}"
            )
        options = {"drop_path_rate": config.drop_path} if getattr(config, "drop_path", 0.0) else {}
        return imported("timm").create_model(names[config.size], num_classes=num_outputs, **options)

    return build


def _bert(config: Any, num_outputs: int, image_px: tuple[int, int]) -> Any:
    from jtl.models import MODELS

    del image_px
    torch, transformers = imported("torch"), imported("transformers")
    full = MODELS[config.name].resolve(config)
    encoder = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=full.vocabulary,
            hidden_size=full.dim,
            num_hidden_layers=full.depth,
            num_attention_heads=full.heads,
            intermediate_size=full.mlp_dim,
            max_position_embeddings=full.num_positions,
            type_vocab_size=max(1, full.num_segments),
            hidden_dropout_prob=full.dropout,
            attention_probs_dropout_prob=full.attention_dropout,
        ),
        add_pooling_layer=full.pool == "pooler",
    )

    class Classifier(torch.nn.Module):
        """An encoder, the mean or the first of its tokens, and a linear head."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Linear(full.dim, num_outputs)

        def get_classifier(self) -> Any:
            """Return the head, as timm's models do."""
            return self.head

        def forward(self, inputs: Mapping[str, Any]) -> Any:
            mask = inputs["mask"]
            outputs = self.encoder(
                input_ids=inputs["ids"], attention_mask=mask, token_type_ids=inputs["segments"]
            )
            states = outputs.last_hidden_state
            if full.pool == "mean":
                weight = mask[..., None].to(states.dtype)
                return self.head((states * weight).sum(1) / weight.sum(1))
            return self.head(outputs.pooler_output if full.pool == "pooler" else states[:, 0])

    return Classifier()


# By family: (settings of the model, outputs, image size) -> module with `get_classifier()`.
BUILDERS: Mapping[str, Callable[[Any, int, tuple[int, int]], Any]] = {
    "vit": _vit,
    "resnet": _named(RESNETS),
    "convnext": _named(CONVNEXTS),
    "mobilenet_v2": _named({"100": "mobilenetv2_100", "140": "mobilenetv2_140"}),
    "bert": _bert,
}
