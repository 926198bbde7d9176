"""The kinds of sources, one file each; `jtl.data.SOURCES` lists them."""
