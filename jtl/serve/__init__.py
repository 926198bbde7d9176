"""A model behind HTTP: requests are read under limits, answered in batches, and none is lost at the end."""
