"""PARC: whether examples that lie apart in the features are of other classes (Bolya et al. 2021)."""

import numpy as np

from jtl.ranking.contract import Classes, Features

# All pairs are ranked: of 5,000 examples 12.5 million, which take seconds and 1 GB.
MAX_EXAMPLES = 5000


def parc(features: Features, labels: Classes) -> float:
    """Return 100 x the rank correlation of two distances over all pairs, as the paper scales it.

    That of features is 1 - Pearson's correlation of the standardised features of two examples, that of
    classes tells equal from other; every feature that varies is standardised.
    """
    from scipy.stats import rankdata

    features = np.asarray(features, np.float64)
    spread = features.std(axis=0)
    varied = features[:, spread > 0]
    standard = (varied - varied.mean(axis=0, keepdims=True)) / spread[spread > 0][None]
    centred = standard - standard.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(lengths > 0, lengths, 1.0)
    rows, columns = np.triu_indices(len(labels), 1)
    apart = (1.0 - unit @ unit.T)[rows, columns]
    is_other = labels[rows] != labels[columns]
    # Of two values the ranks are as good as the values.
    return 100.0 * float(np.corrcoef(rankdata(apart), is_other)[0, 1])
