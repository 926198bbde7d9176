"""Measures jtl beside PyTorch case by case, and writes the table of docs/speed.md from the records.

    python -m benchmarks.speed run [CASE …]     # a record each in benchmarks/records/ (extra `bench`)
    python -m benchmarks.speed table            # docs/speed.md from all records there

A record is what `jtl bench --against torch --out FILE` writes. On an otherwise idle machine.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS, PAGE = ROOT / "benchmarks" / "records", ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- speed: python -m benchmarks.speed table -->", "<!-- speed ends -->"
PREFIX = "against-"
VIT = ("configs/vit_ft.py:ti16", "--config.model.drop_path=0", "--config.train.batch_size=16")
RESNET = ("configs/resnet_ft.py:18", "--config.train.batch_size=16")
BERT = (
    *("configs/pretrain_text.py:none", "--config.model.name=bert", "--config.model.size=bert_base"),
    *("--config.task.name=multiclass", "--config.train.batch_size=16", "--length", "128"),
)
CONFIGS = {"vit-ti16": VIT, "resnet-18": RESNET, "bert-base": BERT}
MODES = ("train", "forward", "probe")
CASES = {f"{name}-{mode}": (*words, "--modes", mode) for name, words in CONFIGS.items() for mode in MODES}
HEADER = (
    "| model, batch, precision | step | jtl | PyTorch | jtl's speed over PyTorch's, median (range) |",
    "|---|---|---|---|---|",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure cases, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="measure")
    run.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="CASE", help=f"of {', '.join(CASES)}")
    actions.add_parser("table", help="write the table of docs/speed.md")
    args = parser.parse_args(argv)
    if args.action == "run":
        for name in args.cases or CASES:
            subprocess.run([sys.executable, *command(name, RECORDS)], cwd=ROOT, check=True)
        return
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob(f"{PREFIX}*.json"))
    ]
    table = "\n".join(rows(records))
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
    sys.stdout.write(f"{table}\n")


def command(name: str, folder: Path) -> list[str]:
    """Return the words behind the interpreter that measure a case and leave its record in a folder."""
    words = ["-m", "jtl", "bench", "--config", *CASES[name], "--config.model.weights=none"]
    return [*words, "--against", "torch", "--out", str(folder / f"{PREFIX}{name}.json")]


def rows(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table: a row for every mode of every record, and below it on what each was measured."""
    found, made_on = list(HEADER), []
    for record in records:
        about = f"{record['model']}, {record['batch_size']}, {record['dtype']}"
        made_on.append(surroundings(record))
        for mode, each in record["against"].items():
            best = each["best"]
            theirs = each["torch"][best["name"]]["seconds"]["median"]
            ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**best["ratio"])
            shown = [f"{1e3 * seconds:,.0f} ms" for seconds in (each["jtl"]["seconds"]["median"], theirs)]
            way = best["name"].removeprefix("torch ").replace("_", " ")
            pairs = len(best["ratio"]["pairs"])
            found.append(f"| {about} | {mode} | {shown[0]} | {shown[1]}, {way} | {ratio} of {pairs} |")
    return [*found, "", *(f"{line}." for line in dict.fromkeys(made_on))]


def surroundings(record: dict[str, Any]) -> str:
    """Return what a record was measured on, in one line."""
    versions = record["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch", "timm") if name in versions)
    device = record["device"] if record["platform"] != "cpu" else record["processor"]
    made_by = f"Python {versions['python']}, {libraries}, commit {record['commit']}"
    return f"On {device}, {record['cores']} cores, {made_by}"


def put(text: str, table: str) -> str:
    """Return a document with the table between its marks.

    >>> put(f"a\\n{BEGIN}\\nold\\n{END}\\nb", "new") == f"a\\n{BEGIN}\\n\\nnew\\n\\n{END}\\nb"
    True
    """
    before, mark, rest = text.partition(BEGIN)
    assert mark, f"{PAGE.name} has no {BEGIN}"
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    main()
