"""The script that made `text.npz`: outputs of transformers' text encoders, of weights that `draws.py` draws.

Run as `python -m tests.goldens.make_text [folder of real weights]` with torch 2.13.0 and transformers 5.24.0;
with no folder the golden of real weights is kept as it is. It holds the tokens that are no padding, layer by
layer, the logits of classifiers and of those that tell masked words. transformers 5 has no Flax classes: the
tests rename PyTorch's tensors as the Flax classes of transformers 4 name them, and expect the same numbers.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from tests.goldens import draws

FILE = Path(__file__).parent / "text.npz"
SHARED = {"vocab_size": 50, "num_labels": draws.NUM_CLASSES, "attn_implementation": "eager"}
BERT = {
    **SHARED,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
}
ROBERTA = {**BERT, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    **SHARED,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 24,
}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", ROBERTA),
    "distilbert": ("DistilBert", DISTILBERT),
}
TASKS = {"classes": "ForSequenceClassification", "words": "ForMaskedLM"}


def main() -> None:
    """Write the goldens of drawn weights, and of the real weights in the folder given."""
    goldens: dict[str, np.ndarray] = {}
    for name, (title, settings) in CLASSES.items():
        config = getattr(transformers, f"{title}Config")(**settings)
        goldens[f"{name}/config"] = np.array(json.dumps(config.to_dict()))
        for task, suffix in TASKS.items():
            model = getattr(transformers, f"{title}{suffix}")(config)
            goldens |= evaluated(drawn(model, f"{name}/{task}", goldens), name, task)
    goldens |= real(Path(sys.argv[1])) if len(sys.argv) > 1 else kept_real()
    made_with = {
        "script": "tests/goldens/make_text.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    goldens["made_with"] = np.array(json.dumps(made_with))
    np.savez_compressed(FILE, **goldens)
    sys.stdout.write(f"{len(goldens)} arrays, {FILE.stat().st_size} bytes, {made_with}\n")


def drawn(model: nn.Module, name: str, goldens: dict[str, np.ndarray]) -> nn.Module:
    """Fill the model with drawn weights, and note the names and shapes they are drawn by."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(draws.tensor(name, key, shape)) for key, shape in shapes.items()}
    # What is tied is one tensor, and takes the value that is loaded last: give both the first one's.
    tied = getattr(model, "_tied_weights_keys", None) or {}
    state |= {key: state[source] for key, source in dict(tied).items()}
    model.load_state_dict(state)
    goldens[f"{name}/shapes"] = np.array(json.dumps(shapes))
    return model


def evaluated(model: Any, name: str, task: str) -> dict[str, np.ndarray]:
    """Return the logits, and of classifiers samples of every layer's tokens."""
    inputs = draws.texts(name)
    given = {
        "input_ids": torch.from_numpy(inputs["ids"]).long(),
        "attention_mask": torch.from_numpy(inputs["mask"]).long(),
    }
    if name != "distilbert":
        given["token_type_ids"] = torch.from_numpy(inputs["segments"]).long()
    with torch.no_grad():
        outputs = model.eval()(**given, output_hidden_states=True)
    if task == "words":
        return {f"{name}/{task}/logits": outputs.logits.numpy()[inputs["mask"]]}
    return {f"{name}/{task}/logits": outputs.logits.numpy()} | {
        f"{name}/layers/{index}": draws.sampled(f"{index}", layer.numpy()[inputs["mask"]])
        for index, layer in enumerate(outputs.hidden_states)
    }


def real(folder: Path) -> dict[str, np.ndarray]:
    """Return the golden of MiniLM: means of the tokens that are no padding, and the ids they are of."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder / "minilm_l6_v2", dtype=torch.float32).eval()
    inputs = draws.texts("real/minilm_l6", vocabulary=model.config.vocab_size)
    with torch.no_grad():
        tokens = model(
            input_ids=torch.from_numpy(inputs["ids"]).long(),
            attention_mask=torch.from_numpy(inputs["mask"]).long(),
        ).last_hidden_state.numpy()
    weight = inputs["mask"][..., None].astype(np.float32)
    return {"real/minilm_l6/means": (tokens * weight).sum(1) / weight.sum(1)}


def kept_real() -> dict[str, np.ndarray]:
    """Return the golden of real weights that the file has."""
    with np.load(FILE) as file:
        return {key: file[key] for key in file.files if key.startswith("real/")}


if __name__ == "__main__":
    main()
