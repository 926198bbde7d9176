"""The front door: flags → config.read → train.run (`python -m jtl.main --config configs/vit_ft.py`)."""

from jtl import cli

if __name__ == "__main__":
    cli.main(verb="train")
