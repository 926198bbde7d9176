"""The verb `jtl compare`: variants of a run, trained and compared over seeds or folds."""
