"""Measure everything, or some of it: `python -m benchmarks [PART ...] [--minutes M] [--peers PYTHON]`.

Writes FOLDER/results.csv (a line per measured quantity), FOLDER/results.md and FOLDER/growth.png. Parts that are not
measured keep the lines they had.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

from benchmarks import growth, loop, memory, start, together, update
from benchmarks.rows import Row
from steadyq.engine import machine

PARTS: dict[str, tuple[str, Any]] = {
    "update": ("Updates", update),
    "loop": ("The training loop", loop),
    "together": ("Side by side", together),
    "start": ("Start", start),
    "memory": ("Memory", memory),
    "growth": ("Growth", growth),
}
"""The title and the module of each, in the order of the report."""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], metavar="PART", help="all of them if none is named")
    parser.add_argument(
        "--minutes", type=float, default=8, help="of taking turns in `update`; `growth` takes a quarter"
    )
    parser.add_argument(
        "--peers", type=Path, help="the Python of an environment with the peers; none are measured else"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    values = parser.parse_args()
    if unknown := [part for part in values.parts if part not in PARTS]:
        parser.error(f"{unknown[0]} is not a part; there are {', '.join(PARTS)}")
    machine.keep_freed_memory()
    values.out.mkdir(exist_ok=True)
    rows, heads = read(values.out / "results.csv")
    for part in values.parts or PARTS:
        head = (
            f"{time.strftime('%Y-%m-%d')}, {machine.cpu()}, {machine.usable_cores()} cores, commit {machine.commit()}, "
        )
        head += ", ".join(f"{name} {version}" for name, version in machine.versions().items())
        print(f"measuring {part}", flush=True)
        if part == "update":
            measured, versions = update.measure(values.minutes, values.peers)
            head += "".join(f", {name} {version}" for name, version in versions.items() if name != "torch")
        elif part == "growth":
            measured = growth.measure(values.minutes / 4)
        else:
            measured = PARTS[part][1].measure()
        replaced = {"update", "floor"} if part == "update" else {part}
        rows = [row for row in rows if row.part not in replaced] + measured
        heads = {**heads, **dict.fromkeys(replaced, head)}
        write(values.out / "results.csv", rows, heads)
        (values.out / "results.md").write_text(report(rows, heads))
        if part == "growth":
            growth.draw(rows, values.out / "growth.png")
    print((values.out / "results.md").read_text())


def report(rows: list[Row], heads: dict[str, str]) -> str:
    """Everything that has been measured, as Markdown."""
    text = "# Benchmarks\n\nWritten by `make bench`. Compare within a table only: the machine is a shared one.\n"
    for part, (title, module) in PARTS.items():
        if part in heads:
            text += f"\n## {title}\n\n{heads[part]}\n\n{module.report(rows)}"
    return text


def write(path: Path, rows: list[Row], heads: dict[str, str]) -> None:
    """One line per row, with the machine, commit and versions it was measured with."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*Row._fields, "measured"])
        for row in rows:
            lines.writerow([*(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row), heads[row.part]])


def read(path: Path) -> tuple[list[Row], dict[str, str]]:
    """What `write` wrote; nothing if it has not yet."""
    if not path.is_file():
        return [], {}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [
        Row(
            part=line["part"],
            case=line["case"],
            metric=line["metric"],
            unit=line["unit"],
            median=float(line["median"]),
            low=float(line["low"]),
            high=float(line["high"]),
            values=int(line["values"]),
        )
        for line in lines
    ]
    return rows, {line["part"]: line["measured"] for line in lines}


if __name__ == "__main__":
    main()
