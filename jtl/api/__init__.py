"""jtl in Python: what `import jtl` offers; each does what the verb of its name does, without files."""
