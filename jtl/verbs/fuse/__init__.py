"""The verb `jtl fuse`: one model of several finished runs."""
