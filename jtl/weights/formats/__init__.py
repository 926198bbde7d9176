"""Formats of files with weights, one file each."""
