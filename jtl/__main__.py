"""`python -m jtl VERB` is the same as `jtl VERB`."""

from jtl.cli import main

if __name__ == "__main__":
    main()
