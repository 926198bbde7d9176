"""BERT's, RoBERTa's and DistilBERT's tables of names in transformers, PyTorch and Flax; how to recognise one.

The classes for sequence classification have a dense layer before their last one, under three names: it is the
model's pooler, and the last one its head. Those that tell masked words keep the table of words twice, or not
at all. Reference: transformers 5.24 (PyTorch) and 4.56 (Flax).
"""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.errors import UserError, shown
from jtl.models import bert
from jtl.models.contract import VOCABULARY
from jtl.weights.contract import LINEAR_HEADS, FamilyNames, LeftOut, Origin, Row
from jtl.weights.names import bert_written, clip, flax_hub, hub_config, ops, rows

Leaves = Mapping[str, Any]
Fields = dict[str, Any]

WORDS = "params/embeddings/word_embeddings/embedding"
POSITIONS = "params/embeddings/position_embeddings/embedding"
SEGMENTS = "params/embeddings/token_type_embeddings/embedding"
LAYER = "encoder/layer/{i}"
POOLER = "params/pooler/dense/kernel"
HEAD_KERNEL, WORD_BIAS = "params/head/kernel", "params/head/decoder/bias"
QUERY, MLP = (
    f"params/encoder/layer/0/{each}/kernel" for each in ("attention/self/query", "intermediate/dense")
)
NO_POOLER = "pooler, which the model's features do without"
COUNTER, TWICE = "counter, not learned", "the table of words, once more"
NEXT_SENTENCE = "head that tells whether a sentence follows another"
HEAD_DIM = 64


def _table(source: str, target: str) -> Row:
    return Row(f"{source}.weight", (target,), ops.SAME)


def _heads(source: str, target: str) -> tuple[Row, Row]:
    """Return the rows of a layer whose outputs are split into heads."""
    return (
        Row(f"{source}.weight", (f"params/{target}/kernel",), ops.HEADS_KERNEL),
        Row(f"{source}.bias", (f"params/{target}/bias",), ops.HEADS_BIAS),
    )


def _pooler(source: str, *, is_beside: bool) -> tuple[Row, ...]:
    return tuple(
        row._replace(unneeded=NO_POOLER, is_beside=is_beside) for row in rows.dense(source, "pooler/dense")
    )


def _word_head(transform: str, norm: str, bias: str) -> tuple[Row, ...]:
    """Return the rows of a head that tells words."""
    return (
        *rows.dense(transform, "head/transform/dense"),
        *rows.norm(norm, "head/transform/LayerNorm"),
        Row(bias, (WORD_BIAS,), ops.SAME),
    )


def _words_twice(decoder: str) -> tuple[LeftOut, ...]:
    return (LeftOut(f"{decoder}.weight", TWICE), LeftOut(f"{decoder}.bias", "bias of the words, once more"))


def _old(norm: Row) -> Row:
    """Return the row of a norm as the first files call it."""
    stem, _, leaf = norm.source.rpartition(".")
    return norm._replace(source=f"{stem}.{OLD[leaf]}")


OLD = {"weight": "gamma", "bias": "beta"}
EMBEDDING_NORM = rows.norm("embeddings.LayerNorm", "embeddings/LayerNorm")
BLOCK_NORMS = (
    *rows.norm("encoder.layer.{i}.attention.output.LayerNorm", f"{LAYER}/attention/output/LayerNorm"),
    *rows.norm("encoder.layer.{i}.output.LayerNorm", f"{LAYER}/output/LayerNorm"),
)
POSITION_IDS = LeftOut("embeddings.position_ids", COUNTER)
ENCODER = (
    _table("embeddings.word_embeddings", WORDS),
    _table("embeddings.position_embeddings", POSITIONS),
    _table("embeddings.token_type_embeddings", SEGMENTS),
    *EMBEDDING_NORM,
    *(
        row
        for name in ("query", "key", "value")
        for row in _heads(f"encoder.layer.{{i}}.attention.self.{name}", f"{LAYER}/attention/self/{name}")
    ),
    *rows.dense("encoder.layer.{i}.attention.output.dense", f"{LAYER}/attention/output/dense"),
    *rows.dense("encoder.layer.{i}.intermediate.dense", f"{LAYER}/intermediate/dense"),
    *rows.dense("encoder.layer.{i}.output.dense", f"{LAYER}/output/dense"),
    *BLOCK_NORMS,
)
ROBERTA_FIELDS = {"position_offset": 2, "layer_norm_epsilon": 1e-5}


def _no_bert(leaves: Leaves) -> str:
    """Return why transformers has no BERT or RoBERTa of these leaves."""
    return "their models have segments" if SEGMENTS not in leaves else _no_pooler(leaves)


def _no_distilbert(leaves: Leaves) -> str:
    return "DistilBERT has no segments" if SEGMENTS in leaves else _no_pooler(leaves)


def _no_pooler(leaves: Leaves) -> str:
    """Return why transformers has no classifier of these leaves."""
    if HEAD_KERNEL in leaves and POOLER not in leaves:
        return "their classifiers have a dense layer before the last, which is model.pool='pooler'"
    return ""


def _is_roberta(tensors: Mapping[str, Any]) -> bool:
    """Return whether these may be a RoBERTa's: bare, only their single kind of segment tells them apart."""
    segments = [tensor for name, tensor in tensors.items() if "token_type_embeddings" in name]
    is_named = any(name.startswith(("roberta", "lm_head")) for name in tensors)
    return is_named or any(tensor.shape[0] == 1 for tensor in segments)


def _is_bert(tensors: Mapping[str, Any]) -> bool:
    return not _is_roberta(tensors)


def _is_flax(tensors: Mapping[str, Any]) -> bool:
    """Return whether these are Flax's [dim, dim] kernels, and not jtl's own [dim, heads, head_dim]."""
    kernels = [tensor for name, tensor in tensors.items() if name.endswith("/query/kernel")]
    return all(len(kernel.shape) == 2 for kernel in kernels)


BERT_NAMES = Origin(
    title="Hugging Face BERT names",
    prefix="bert.",
    rows=(
        *ENCODER,
        *_pooler("pooler.dense", is_beside=False),
        *rows.dense("classifier", "head"),
        *_word_head(
            "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"
        ),
    ),
    left_out=(
        POSITION_IDS,
        *_words_twice("cls.predictions.decoder"),
        LeftOut("cls.seq_relationship.weight", NEXT_SENTENCE),
        LeftOut("cls.seq_relationship.bias", NEXT_SENTENCE),
    ),
    is_of=_is_bert,
    refuses=_no_bert,
)
ROBERTA_NAMES = Origin(
    title="Hugging Face RoBERTa names",
    prefix="roberta.",
    rows=(
        *ENCODER,
        *_pooler("pooler.dense", is_beside=False),
        *_word_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    ),
    left_out=(POSITION_IDS, *_words_twice("lm_head.decoder")),
    is_of=_is_roberta,
    refuses=_no_bert,
    config_fields=ROBERTA_FIELDS,
)
ROBERTA_CLASSIFIER_NAMES = Origin(
    title="Hugging Face RoBERTa classifier names",
    prefix="roberta.",
    rows=(
        *ENCODER,
        *_pooler("classifier.dense", is_beside=True),
        *rows.dense("classifier.out_proj", "head"),
    ),
    left_out=(
        POSITION_IDS,
        *(LeftOut(f"pooler.dense.{leaf}", "pooler, which the classifier does without") for leaf in OLD),
    ),
    is_of=_is_roberta,
    refuses=_no_bert,
    config_fields=ROBERTA_FIELDS,
)
DISTILBERT_LAYER = "transformer.layer.{i}"
DISTILBERT_NAMES = Origin(
    title="Hugging Face DistilBERT names",
    prefix="distilbert.",
    rows=(
        _table("embeddings.word_embeddings", WORDS),
        _table("embeddings.position_embeddings", POSITIONS),
        *EMBEDDING_NORM,
        *(
            row
            for theirs, ours in {"q": "query", "k": "key", "v": "value"}.items()
            for row in _heads(f"{DISTILBERT_LAYER}.attention.{theirs}_lin", f"{LAYER}/attention/self/{ours}")
        ),
        *rows.dense(f"{DISTILBERT_LAYER}.attention.out_lin", f"{LAYER}/attention/output/dense"),
        *rows.norm(f"{DISTILBERT_LAYER}.sa_layer_norm", f"{LAYER}/attention/output/LayerNorm"),
        *rows.dense(f"{DISTILBERT_LAYER}.ffn.lin1", f"{LAYER}/intermediate/dense"),
        *rows.dense(f"{DISTILBERT_LAYER}.ffn.lin2", f"{LAYER}/output/dense"),
        *rows.norm(f"{DISTILBERT_LAYER}.output_layer_norm", f"{LAYER}/output/LayerNorm"),
        *_pooler("pre_classifier", is_beside=True),
        *rows.dense("classifier", "head"),
        *_word_head("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    ),
    left_out=(POSITION_IDS, LeftOut("vocab_projector.weight", TWICE)),
    refuses=_no_distilbert,
    config_fields={"pooler": "relu"},
)


def _with_old_norms(origin: Origin) -> Origin:
    """Return the origin that knows the norms by their first names too."""
    old = tuple(_old(row) for row in (*EMBEDDING_NORM, *BLOCK_NORMS))
    head = tuple(_old(row) for row in origin.rows if row.source.startswith("cls.predictions.transform.Layer"))
    return origin._replace(rows=(*origin.rows, *old, *head))


def _flax(origin: Origin, kind: str) -> Origin:
    def is_of(tensors: Mapping[str, Any]) -> bool:
        return _is_flax(tensors) and origin.is_of(tensors)

    return flax_hub.origin(origin, kind)._replace(is_of=is_of)


ORIGINS = {
    "huggingface_bert": _with_old_norms(BERT_NAMES),
    "huggingface_roberta": ROBERTA_NAMES,
    "huggingface_roberta_classifier": ROBERTA_CLASSIFIER_NAMES,
    "huggingface_distilbert": DISTILBERT_NAMES,
    "flax_bert": _flax(BERT_NAMES, "BERT "),
    "flax_roberta": _flax(ROBERTA_NAMES, "RoBERTa "),
    "flax_roberta_classifier": _flax(ROBERTA_CLASSIFIER_NAMES, "RoBERTa classifier "),
    "flax_distilbert": _flax(DISTILBERT_NAMES, "DistilBERT "),
}

# What a config.json may say that jtl has not got; transformers' own values (5.24) where it says nothing.
ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
DEFAULTS: Fields = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12}
ROBERTA_DEFAULTS: Fields = {**DEFAULTS, "pad_token_id": 1}
DISTILBERT_DEFAULTS: Fields = {"activation": "gelu", "n_heads": 12}
# What tensors tell too: a file of another depth lies beside the wrong weights.
TOLD = {
    "vocabulary": "vocab_size",
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "mlp_dim": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
DISTILBERT_TOLD = {
    "vocabulary": "vocab_size",
    "dim": "dim",
    "depth": "n_layers",
    "mlp_dim": "hidden_dim",
    "num_positions": "max_position_embeddings",
}


def of_config(values: Mapping[str, Any]) -> Fields | None:
    """Return what a `config.json` says of a BERT; None where it is of another family.

    Raises:
        UserError: it describes one that jtl has not got.
    """
    read = CONFIGS.get(str(values.get("model_type")))
    if read is None:
        return None
    hub_config.refuse_others(values, ONLY, "BERTs")
    return read(values)


def _bert(values: Mapping[str, Any]) -> Fields:
    full = {**DEFAULTS, **values}
    return {
        **_told(full, TOLD),
        "heads": clip.number(full, "num_attention_heads"),
        **_activation(full["hidden_act"]),
        **_epsilon(full["layer_norm_eps"]),
    }


def _roberta(values: Mapping[str, Any]) -> Fields:
    full = {**ROBERTA_DEFAULTS, **values}
    pad_id = full["pad_token_id"]
    if type(pad_id) is not int or pad_id < 0:
        raise UserError(
            f"config.json has pad_token_id {shown(pad_id)}; expected a whole number; get it again"
        )
    return {**_bert(full), "position_offset": pad_id + 1}


def _distilbert(values: Mapping[str, Any]) -> Fields:
    full = {**DISTILBERT_DEFAULTS, **values}
    return {
        **_told(full, DISTILBERT_TOLD),
        "heads": clip.number(full, "n_heads"),
        **_activation(full["activation"]),
        **_epsilon(DEFAULTS["layer_norm_eps"]),
    }


def _told(values: Mapping[str, Any], names: Mapping[str, str]) -> Fields:
    return {ours: clip.number(values, theirs) for ours, theirs in names.items() if theirs in values}


def _activation(given: Any) -> Fields:
    if str(given) not in clip.GELUS:
        raise UserError(
            f"config.json has hidden activation {shown(given)}; expected one of {', '.join(clip.GELUS)}; "
            f"choose other weights"
        )
    return {"gelu": clip.GELUS[str(given)]}


def _epsilon(given: Any) -> Fields:
    if not isinstance(given, float) or not 0 < given < 1:
        raise UserError(
            f"config.json has layer_norm_eps {shown(given)}; expected a small positive number; get it again"
        )
    return {"layer_norm_epsilon": given}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Fields, str] | None:
    """Return settings and title of the BERT with these leaves; None where they are none of a BERT's.

    Heads cannot be told from PyTorch's shapes: unless the size is a known one, they are taken as 64 wide. A
    pooler is read where a linear head stands on it, or where models of that size read theirs.
    """
    if any(len(shapes.get(name, ())) != 2 for name in (WORDS, POSITIONS, MLP)):
        return None
    (vocabulary, dim), query = shapes[WORDS], shapes.get(QUERY, ())
    layers = {name.split("/")[3] for name in shapes if name.startswith("params/encoder/layer/")}
    widths = {
        "vocabulary": vocabulary,
        "dim": dim,
        "depth": len(layers),
        "mlp_dim": shapes[MLP][1],
        "num_positions": shapes[POSITIONS][0],
        "num_segments": shapes.get(SEGMENTS, (0,))[0],
    }
    known = [name for name, size in bert.SIZES.items() if widths.items() <= size.items()]
    if not known:
        # A vocabulary of its own, such as one that was cut to a few languages.
        rest = widths.items() - {("vocabulary", vocabulary)}
        known = [name for name, size in bert.SIZES.items() if rest <= size.items()]
    size = known[0] if known else "bert_base" if widths["num_segments"] else "distilbert_base"
    fields: Fields = {"size": size}
    own = {name: each for name, each in widths.items() if each != bert.SIZES[size].get(name)}
    fields |= own if known else {name: each for name, each in widths.items() if each}
    heads = query[1] if len(query) == 3 and query[1] > 1 else 0
    if heads or not known:
        fields["heads"] = heads or max(dim // HEAD_DIM, 1)
    pool = _pool(shapes, bert.SIZES[size]["pool"])
    fields |= {} if pool == bert.SIZES[size]["pool"] else {"pool": pool}
    title = size.replace("_", " ") if known else f"BERT of width {dim} and depth {widths['depth']}"
    return fields, f"text encoder {title}"


def _pool(shapes: Leaves, usual: str) -> str:
    """Return how the features of a model with these leaves are made, where those of its size are so."""
    reads_pooler = usual == "pooler"
    if POOLER in shapes and (reads_pooler or HEAD_KERNEL in shapes):
        return "pooler"
    return "cls" if reads_pooler else usual


CONFIGS: dict[str, Callable[[Mapping[str, Any]], Fields]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
    "camembert": _roberta,
    "distilbert": _distilbert,
}
NAMES = FamilyNames(
    origins=ORIGINS,
    marker=WORDS,
    recognise=recognise,
    of_config=of_config,
    heads=(*LINEAR_HEADS, (VOCABULARY, WORD_BIAS)),
    additions=(f"params/{bert.PROMPTS}", POOLER, "params/pooler/dense/bias"),
    writers=bert_written.WRITERS,
)
