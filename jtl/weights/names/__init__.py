"""Tables of names, one file a family: how each library names the tensors that fill a model."""
