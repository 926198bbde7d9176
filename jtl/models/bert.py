"""Text encoders: BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), XLM-R, DistilBERT (Sanh et al. 2019).

One family: what they differ in are settings. Inputs are {"ids": int32, "segments": int32, "mask": bool}, all
[batch, tokens], padded where the mask is False; a head that reads the vocabulary may be given "places": int32
[batch, places], the tokens whose words it is to tell. Parameters are named as `bert_layers` says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jtl.errors import UserError
from jtl.inputs.tokens import Preprocess
from jtl.models import attending, bert_layers, head, initial, layers, linen, rematerialise, vit_layers
from jtl.models.attention import AUTO, IMPLEMENTATIONS
from jtl.models.bert_layers import Mask, Tokens
from jtl.models.contract import FEATURES, VOCABULARY, Family, Model
from jtl.ranges import CountOr0, Depth, Fraction, ReadIf, WidthOr0

INPUT = "tokens"
NUM_TRACED = 4

ENGLISH, MULTILINGUAL = 30522, 250002
BERT = {"num_positions": 512, "num_segments": 2, "layer_norm_epsilon": 1e-12, "pooler": "tanh"}
ROBERTA = {
    "num_positions": 514,
    "num_segments": 1,
    "position_offset": 2,
    "layer_norm_epsilon": 1e-5,
    "pooler": "tanh",
    "pool": "cls",
}
DISTILBERT = {**BERT, "num_segments": 0, "pooler": "relu", "pool": "cls"}
MINI = {"dim": 384, "heads": 12, "mlp_dim": 1536}
BASE = {"dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
LARGE = {"dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096}
PLAIN = {**BERT, "vocabulary": ENGLISH, "pool": "pooler"}
SIZES: dict[str, dict[str, Any]] = {
    "bert_tiny": {**PLAIN, "dim": 128, "depth": 2, "heads": 2, "mlp_dim": 512},
    "bert_mini": {**PLAIN, "dim": 256, "depth": 4, "heads": 4, "mlp_dim": 1024},
    "bert_small": {**PLAIN, "dim": 512, "depth": 4, "heads": 8, "mlp_dim": 2048},
    "bert_medium": {**PLAIN, "dim": 512, "depth": 8, "heads": 8, "mlp_dim": 2048},
    "bert_base": {**PLAIN, **BASE},
    "bert_large": {**PLAIN, **LARGE},
    "bert_base_cased": {**PLAIN, **BASE, "vocabulary": 28996},
    "bert_base_chinese": {**PLAIN, **BASE, "vocabulary": 21128},
    "bert_base_multilingual": {**PLAIN, **BASE, "vocabulary": 119547},
    "roberta_base": {**ROBERTA, **BASE, "vocabulary": 50265},
    "roberta_large": {**ROBERTA, **LARGE, "vocabulary": 50265},
    "distilroberta_base": {**ROBERTA, **BASE, "depth": 6, "vocabulary": 50265},
    "xlmr_base": {**ROBERTA, **BASE, "vocabulary": MULTILINGUAL},
    "xlmr_large": {**ROBERTA, **LARGE, "vocabulary": MULTILINGUAL},
    "distilbert_base": {**DISTILBERT, **BASE, "depth": 6, "vocabulary": ENGLISH},
    "distilbert_base_cased": {**DISTILBERT, **BASE, "depth": 6, "vocabulary": 28996},
    "distilbert_base_multilingual": {**DISTILBERT, **BASE, "depth": 6, "vocabulary": 119547},
    "minilm_l6": {**BERT, **MINI, "depth": 6, "vocabulary": ENGLISH, "pool": "mean"},
    "minilm_l12": {**BERT, **MINI, "depth": 12, "vocabulary": ENGLISH, "pool": "mean"},
    "e5_small": {**BERT, **MINI, "depth": 12, "vocabulary": 250037, "pool": "mean"},
}
PROMPTS = "encoder/prompts"
DEFAULTS = {"gelu": "exact", "num_segments": 0, "position_offset": 0}

# As transformers begins, but not cut off at two standard deviations.
RULES: initial.Rules = (
    *head.RULES,
    (r"(^|/)(kernel|embedding|prompts)$", initial.normal(0.02)),
    (r"/scale$", initial.ones),
    (r"(^|/)bias$", initial.zeros),
)


@dataclass(frozen=True)
class Config(head.Settings):
    """Settings of a BERT beside those of every family; None, 0 and "" mean "as the size has it".

    `vocabulary` counts the ids, `num_positions` the rows of the table of positions, of which the first token
    takes the one at `position_offset` (RoBERTa: 2), `num_segments` the kinds of segments (DistilBERT: none).
    `pool` makes features of the tokens: "cls" (the first), "mean" (over those that are no padding) or
    "pooler" (a dense layer on the first, and the activation `pooler`: "tanh" or, DistilBERT's, "relu"); a
    head that reads the vocabulary goes without a pooler. `gelu` is "exact", "tanh" or "quick". `dropout` acts
    on embeddings and both residual branches, `attention_dropout` on attention's weights, both as published;
    `drop_path` is the last block's rate of stochastic depth, growing linearly from 0 at the first.
    `num_prompts` and `has_deep_prompts` are as in `vit.Config`: learned tokens behind the others in the
    blocks, which the strategy vpt trains alone. So is `attention`; cuDNN drops none of its weights, so that
    training by it wants `attention_dropout` 0.
    """

    name: str = "bert"
    size: str = "bert_base"
    vocabulary: CountOr0 = 0
    dim: WidthOr0 = 0
    depth: Depth = 0
    heads: WidthOr0 = 0
    mlp_dim: WidthOr0 = 0
    num_positions: WidthOr0 = 0
    num_segments: WidthOr0 | None = None
    position_offset: WidthOr0 | None = None
    gelu: str = ""
    pool: str = ""
    pooler: str = ""
    layer_norm_epsilon: Fraction = 0.0
    num_prompts: WidthOr0 = 0
    has_deep_prompts: Annotated[bool, ReadIf("num_prompts")] = True
    attention: str = AUTO
    dropout: Fraction = 0.1
    attention_dropout: Fraction = 0.1
    drop_path: Fraction = 0.0

    def __post_init__(self) -> None:
        layers.check_choice("model.size", self.size, SIZES)
        layers.check_choice("model.attention", self.attention, IMPLEMENTATIONS)
        choices = {"pool": POOLS, "pooler": bert_layers.POOLERS, "gelu": layers.GELUS}
        for name, known in choices.items():
            if getattr(self, name):
                layers.check_choice(f"model.{name}", getattr(self, name), known)
        head.check(self)


def resolve(config: Config) -> Config:
    """Return the config with every field of its size filled in.

    Raises:
        UserError: width and heads, or positions and their offset, do not go together.
    """
    full = layers.fill(config, SIZES, DEFAULTS)
    if full.dim % full.heads:
        raise UserError(f"model.dim is {full.dim}; expected a multiple of model.heads, {full.heads}")
    if (full.position_offset or 0) >= full.num_positions:
        raise UserError(
            f"model.position_offset is {full.position_offset}; expected fewer than model.num_positions, "
            f"{full.num_positions}"
        )
    return full


def build(config: Config, num_outputs: int, reads: str = FEATURES) -> Model:
    """Build the model; `num_outputs` 0 gives one without a head, unless it reads the vocabulary."""
    full = resolve(config)
    has_pooler = POOLS[full.pool] is _pool_pooler and reads == FEATURES
    max_tokens = full.num_positions - (full.position_offset or 0)
    blocks = [f"encoder/layer/{index}" for index in range(full.depth)]

    def make_module(train: bool, frozen_stats: frozenset[str]) -> nn.Module:
        assert not frozen_stats, "a BERT keeps no running statistics"
        return MODULES[reads](full, num_outputs, train)

    def check(inputs: Mapping[str, Any]) -> None:
        num_tokens = inputs["ids"].shape[1]
        if num_tokens > max_tokens:
            raise UserError(
                f"texts are {num_tokens} tokens long and the model has {max_tokens} positions; set "
                f"preprocess.max_tokens={max_tokens} or less"
            )

    def pool(activations: Array, inputs: Mapping[str, Any], how: str) -> Array:
        return head.pool(activations, None, how, jnp.asarray(inputs["mask"]))

    # Prompts are as new as the head, so layer-wise decay leaves them nearly its learning rate.
    last = (blocks[-1], *(("pooler",) if has_pooler else ()), *((PROMPTS,) if full.num_prompts else ()))
    groups = (("embeddings",), *((block,) for block in blocks[:-1]), last, ("head",))
    shape = (min(NUM_TRACED, max_tokens),)
    return linen.as_model(
        make_module,
        RULES,
        groups,
        spec={
            "ids": jax.ShapeDtypeStruct(shape, np.int32),
            "segments": jax.ShapeDtypeStruct(shape, np.int32),
            "mask": jax.ShapeDtypeStruct(shape, np.bool_),
        },
        check=check,
        pool=pool,
        preprocess=Preprocess(
            max_tokens=max_tokens, vocabulary=full.vocabulary, pad_id=max((full.position_offset or 0) - 1, 0)
        ),
        inside=attending.of_bert(full) if reads == FEATURES else linen.NOTHING,
    )


def tiny() -> Config:
    """Return a model of two blocks over texts of up to 16 tokens, for tests."""
    return Config(
        size="bert_tiny",
        vocabulary=32,
        dim=16,
        depth=2,
        heads=2,
        mlp_dim=32,
        num_positions=18,
        dropout=0.0,
        attention_dropout=0.0,
    )


class _Classifier(nn.Module):
    """The encoder under the read-out of every family; `config` is resolved."""

    config: Config
    num_outputs: int
    train: bool

    @nn.compact
    def __call__(
        self, inputs: dict[str, Array]
    ) -> tuple[Float32[Array, "batch features"], Float32[Array, "batch outputs"], dict[str, Array]]:
        config, mask = self.config, inputs["mask"]
        x, intermediates, _ = _encoded(config, self.train, inputs)
        features = POOLS[config.pool](config, x, mask)
        return head.read_out(config, self.num_outputs, self.train, features, intermediates, mask=mask)


class _WordTeller(nn.Module):
    """The encoder under a head that reads the vocabulary; its features are those of the first token."""

    config: Config
    num_outputs: int
    train: bool

    @nn.compact
    def __call__(
        self, inputs: dict[str, Array]
    ) -> tuple[Float32[Array, "batch dim"], Float32[Array, "batch places vocabulary"], dict[str, Array]]:
        x, intermediates, table = _encoded(self.config, self.train, inputs)
        features = x[:, 0].astype(jnp.float32)
        if "places" in inputs:
            x = jnp.take_along_axis(x, inputs["places"][..., None], axis=1)
        logits = bert_layers.VocabularyHead(self.config, name="head")(x, table)
        return features, logits, {**intermediates, "pre_head": features}


class _Encoder(nn.Module):
    """The blocks, and the prompts that enter them."""

    config: Config
    train: bool

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask) -> dict[str, Array]:
        config, prompts = self.config, []
        if config.num_prompts:
            shape = (config.depth if config.has_deep_prompts else 1, config.num_prompts, config.dim)
            prompts = jnp.split(self.param("prompts", layers.declared, shape, jnp.float32), shape[0])
        return _Layers(config, self.train, name="layer")(x, mask, prompts)


class _Layers(nn.Module):
    """The blocks by number; gives every one's output without the prompts, which stand behind the others."""

    config: Config
    train: bool

    @nn.compact
    def __call__(
        self, x: Tokens, mask: Mask, prompts: list[Float[Array, "1 prompts dim"]]
    ) -> dict[str, Array]:
        config, num_tokens, outputs = self.config, x.shape[1], {}
        seen = jnp.pad(mask, ((0, 0), (0, config.num_prompts)), constant_values=True)
        block_type = rematerialise.of_blocks(bert_layers.Block, config.remat)
        for index in range(config.depth):
            drop_path = config.drop_path * index / max(config.depth - 1, 1)
            if index < len(prompts):
                x = jnp.concatenate([x[:, :num_tokens], vit_layers.tiled(prompts[index], x)], axis=1)
            x = block_type(config, drop_path, self.train, name=str(index))(x, seen)
            outputs[f"block{index}"] = x[:, :num_tokens]
        return outputs


def _encoded(
    config: Config, train: bool, inputs: Mapping[str, Array]
) -> tuple[Tokens, dict[str, Array], bert_layers.Table]:
    """Return the encoded tokens, every layer's output and the table of words; inside a module."""
    ids, segments, mask = (inputs[name] for name in ("ids", "segments", "mask"))
    x, table = bert_layers.Embeddings(config, train, name="embeddings")(ids, segments, mask)
    blocks = _Encoder(config, train, name="encoder")(x, mask)
    # Padding has no output, so that whoever compares or adds up a layer's tokens need not know of it.
    shown = {name: jnp.where(mask[..., None], each, 0) for name, each in {"embedding": x, **blocks}.items()}
    return blocks[f"block{config.depth - 1}"], shown, table


def _pool_cls(config: Config, x: Tokens, mask: Mask) -> Float[Array, "batch dim"]:
    del config, mask
    return x[:, 0].astype(jnp.float32)


def _pool_mean(config: Config, x: Tokens, mask: Mask) -> Float[Array, "batch dim"]:
    del config
    return head.pool(x, None, "mean", mask)


def _pool_pooler(config: Config, x: Tokens, mask: Mask) -> Float[Array, "batch dim"]:
    return bert_layers.Pooler(config, name="pooler")(_pool_cls(config, x, mask))


POOLS: dict[str, Callable[..., Float[Array, "batch dim"]]] = {
    "cls": _pool_cls,
    "mean": _pool_mean,
    "pooler": _pool_pooler,
}
MODULES: dict[str, Callable[..., nn.Module]] = {FEATURES: _Classifier, VOCABULARY: _WordTeller}
FAMILY = Family(Config, build, SIZES, resolve, tiny, INPUT, (FEATURES, VOCABULARY))
