"""Continue to pretrain a text encoder on your own texts, which need no labels: masked tokens.

    python -m jtl.main --config configs/pretrain_text.py:WEIGHTS --config.data.path=TEXTS --workdir runs/mlm

WEIGHTS are those of a BERT, RoBERTa or DistilBERT, with their head for masked tokens or without (then it is
new); TEXTS are a table or a folder of .txt files. Give the run's folder as the weights of another recipe (ft)
to transfer what was learned.
"""

from ml_collections import ConfigDict


def get_config(argument: str) -> ConfigDict:
    """Return the recipe; `argument` are the weights to go on from."""
    return ConfigDict(
        {
            "model": {"name": "auto", "weights": argument},
            "data": {"path": "", "val_fraction": 0.05},
            "task": {"name": "masked_tokens"},
            "optim": {"learning_rate": 1e-4, "weight_decay": 0.01},
            "train": {"epochs": 3.0, "batch_size": 32},
        }
    )
