"""`jtl bench`: what a configuration costs on this machine, part by part, and beside PyTorch."""
