"""Training: what makes a run, from its configuration to its summary."""
