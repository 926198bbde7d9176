"""Kinds of input: how what a source holds becomes what a model reads."""
