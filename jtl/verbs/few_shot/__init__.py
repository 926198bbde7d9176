"""The verb `jtl few-shot`: its arguments and its run, and one file for each way to learn a few examples."""
