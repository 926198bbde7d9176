"""Verbs: what a user asks of the command line, one file each."""
