"""Writes jtl's text encoders for transformers, loads them there strictly, and compares what they tell.

    python -m benchmarks.round_trip_text write FOLDER      (where jtl is)
    python -m benchmarks.round_trip_text check FOLDER      (where torch and transformers are)

Two steps, so that the two need not be in one environment: the first writes a folder a model, as a hub has it,
with the inputs and jtl's own logits beside it. Every leaf is drawn, so that no tensor can be missed.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

NUM_CLASSES, NUM_TOKENS, VOCABULARY, MAX_ERROR = 10, 12, 60, 1e-4
LENGTHS = (12, 5)
BERT = {
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
}
ROBERTA = {**BERT, "model_type": "roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 20,
}
# A config.json, the size of jtl's whose switches are the model's, and the class for each kind of head.
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "bert": (BERT, "bert_base", "Bert"),
    "roberta": (ROBERTA, "roberta_base", "Roberta"),
    "xlm-roberta": ({**ROBERTA, "model_type": "xlm-roberta"}, "xlmr_base", "XLMRoberta"),
    "distilbert": (DISTILBERT, "distilbert_base", "DistilBert"),
}
CLASSES = {"features": "ForSequenceClassification", "vocabulary": "ForMaskedLM"}


def main(step: str, folder: str) -> None:
    """Run one of the two steps on every model and head."""
    STEPS[step](Path(folder))


def write(folder: Path) -> None:
    """Write every model as jtl writes it for transformers, what it is given and what it makes of that."""
    import jax
    from safetensors.numpy import save_file

    from jtl import tree
    from jtl.models import bert, contract
    from jtl.weights import convert
    from jtl.weights.names.bert import of_config
    from tests.goldens import draws

    for name, (values, size, _) in CASES.items():
        fields = {**(of_config(values) or {}), "size": size, "pool": "pooler"}
        for reads in CLASSES:
            model = contract.build(bert.FAMILY, bert.Config(**fields), NUM_CLASSES, reads=reads)
            random = np.random.default_rng(0)
            shapes = tree.flatten({"params": model.shapes()[0]})
            leaves = {leaf: draws.keras_tensor(name, leaf, each.shape) for leaf, each in shapes.items()}
            inputs = _inputs(random, has_pairs=name == "bert")
            logits = jax.jit(model.apply)(tree.unflatten(leaves)["params"], {}, inputs).logits
            names, arrays = convert.named("bert", ("huggingface",), leaves, fields)
            out = folder / f"{name}-{reads}"
            out.mkdir(parents=True)
            save_file(arrays, out / "model.safetensors", metadata={"format": "pt"})
            (out / "config.json").write_text(json.dumps({**values, "num_labels": NUM_CLASSES}))
            np.savez(out / "jtl.npz", logits=logits, names=names, **inputs)


def _inputs(random: np.random.Generator, *, has_pairs: bool) -> dict[str, np.ndarray]:
    mask = np.arange(NUM_TOKENS)[None] < np.array(LENGTHS)[:, None]
    ids = np.where(mask, random.integers(2, VOCABULARY, mask.shape), 1)
    segments = np.where(mask & has_pairs, random.integers(0, 2, mask.shape), 0)
    return {"ids": ids.astype(np.int32), "segments": segments.astype(np.int32), "mask": mask}


def check(folder: Path) -> None:
    """Compare every model and print a line each; exit with 1 where one differs or does not load strictly."""
    import torch
    import transformers

    made_with = {name: version(name) for name in ("torch", "transformers")}
    sys.stdout.write(f"{json.dumps(made_with)}\n")
    is_good = True
    for name, (_, _, title) in CASES.items():
        for reads, suffix in CLASSES.items():
            path = folder / f"{name}-{reads}"
            kind = getattr(transformers, f"{title}{suffix}")
            model, info = kind.from_pretrained(path, output_loading_info=True)
            faults = {key: value for key, value in info.items() if value}
            with np.load(path / "jtl.npz") as ours:
                given = {
                    "input_ids": torch.from_numpy(ours["ids"]).long(),
                    "attention_mask": torch.from_numpy(ours["mask"]).long(),
                }
                if name != "distilbert":
                    given["token_type_ids"] = torch.from_numpy(ours["segments"]).long()
                with torch.no_grad():
                    theirs = model.eval()(**given).logits.numpy()
                seen = ours["mask"] if reads == "vocabulary" else slice(None)
                error = float(np.abs(theirs - ours["logits"])[seen].max())
                names = str(ours["names"])
            is_good &= error < MAX_ERROR and not faults
            sys.stdout.write(
                f"{name} → {kind.__name__}: {names}, largest difference of a logit {error:.1e}"
                f"{f', faults {faults}' if faults else ''}\n"
            )
    sys.exit(0 if is_good else 1)


STEPS = {"write": write, "check": check}

if __name__ == "__main__":
    main(*sys.argv[1:])
