"""The `config.json` of a text encoder, for transformers' BERT, RoBERTa and DistilBERT."""

from jtl.models import bert
from jtl.weights.names.written import GELUS, Values, Writer, only, transformers

LIBRARY = "transformers"


def huggingface_bert(config: bert.Config) -> Values:
    """Return the file of a `BertForSequenceClassification`."""
    only(config, LIBRARY, {"pool": "pooler", "pooler": "tanh", "position_offset": 0, "num_prompts": 0})
    return transformers("bert", "BertForSequenceClassification", **_shape(config))


def huggingface_roberta(config: bert.Config) -> Values:
    """Return the file of a `RobertaForSequenceClassification`."""
    only(config, LIBRARY, {"pool": "pooler", "pooler": "tanh", "num_prompts": 0})
    pad_id = (config.position_offset or 0) - 1
    only(config, LIBRARY, {"position_offset": max(pad_id, 0) + 1})
    kind = "RobertaForSequenceClassification"
    return transformers("roberta", kind, **_shape(config), pad_token_id=pad_id)


def huggingface_distilbert(config: bert.Config) -> Values:
    """Return the file of a `DistilBertForSequenceClassification`."""
    fixed = {"pool": "pooler", "pooler": "relu", "position_offset": 0, "layer_norm_epsilon": 1e-12}
    only(config, LIBRARY, {**fixed, "num_prompts": 0, "num_segments": 0})
    return transformers(
        "distilbert",
        "DistilBertForSequenceClassification",
        vocab_size=config.vocabulary,
        dim=config.dim,
        n_layers=config.depth,
        n_heads=config.heads,
        hidden_dim=config.mlp_dim,
        activation=GELUS[config.gelu],
        max_position_embeddings=config.num_positions,
    )


def _shape(config: bert.Config) -> Values:
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": GELUS[config.gelu],
        "max_position_embeddings": config.num_positions,
        "type_vocab_size": config.num_segments,
        "layer_norm_eps": config.layer_norm_epsilon,
    }


WRITERS: dict[str, Writer] = {
    "huggingface_bert": huggingface_bert,
    "huggingface_roberta_classifier": huggingface_roberta,
    "huggingface_distilbert": huggingface_distilbert,
}
