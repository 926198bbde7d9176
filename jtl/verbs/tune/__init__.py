"""The verb `jtl tune`: a search over settings, each try a run, and whether its winner is more than luck."""
