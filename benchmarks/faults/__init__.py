"""Trials of what goes wrong around a run: killed, signalled, started twice, its files or machine damaged."""
