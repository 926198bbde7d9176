"""What a person reads of a run: live line, tables, pictures, and the files metrics.jsonl and summary.json."""
