"""How runs were made, for a reader: options, versions, commit and machine of run folders, and film strips in them."""

import base64
import io
import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from steadyq.output import plural
from steadyq.results.read import RECORD, is_made, read_record, stands
from steadyq.results.runs import Run
from steadyq.results.untrusted import attempt, check_file
from steadyq.store import disk
from steadyq.store.packed import is_pack

STRIP_WIDTH, STRIP_QUALITY = 1400, 82  # pixels, and of JPEG
MOST_PIXELS = 20_000_000  # of a film strip, which is 1,600 wide: 60 MB of memory
STRIPS_BYTES = 1_200_000  # of all film strips in one page
STRIP_BYTES = 2**26  # of one film strip's file
LONGEST = 2_000  # characters of one fact


class Details(NamedTuple):
    """One run folder or one file."""

    origin: str
    title: str
    facts: list[tuple[str, str]]  # what: how


class Strip(NamedTuple):
    """A film strip, as an address that holds the picture itself."""

    caption: str
    address: str


def of_runs(runs: Iterable[Run]) -> list[Details]:
    """The details of each place that these runs come from."""
    places: dict[str, list[Run]] = {}
    for run in runs:
        places.setdefault(run.origin, []).append(run)
    return [_one(origin, found) for origin, found in places.items()]


def film_strips(runs: Iterable[Run]) -> tuple[list[Strip], list[str]]:
    """The film strips in the folders of these runs, smaller, and a sentence for each that is left out."""
    found, complaints, size, skipped = list[Strip](), list[str](), 0, 0
    for origin in dict.fromkeys(run.origin for run in runs):
        for path in attempt(partial(_pictures, origin), complaints, failing=f"{origin} cannot be looked into") or []:
            address = attempt(partial(_shrunk, path), complaints, failing=f"{path} cannot be read as a picture")
            if address is None:
                continue
            if size + len(address) > STRIPS_BYTES:
                skipped += 1
                continue
            size += len(address)
            found.append(Strip(str(path), address))
    if skipped:
        complaints.append(f"{skipped} more film strips are left out, or the page would grow too large")
    return found, complaints


def _one(origin: str, runs: list[Run]) -> Details:
    seeds = list(dict.fromkeys(run.seed for run in runs))
    tasks = list(dict.fromkeys(run.task for run in runs))
    methods = list(dict.fromkeys(run.method for run in runs))
    last = max(int(run.env_step[-1]) for run in runs)
    record = Path(origin) / RECORD
    if not os.path.isfile(record):
        in_pack = "a pack: unpack it to see here how its runs were made"
        kind = in_pack if is_pack(Path(origin)) else "a table: how the runs were made is not in it"
        counts = ((runs, "run"), (methods, "method"), (tasks, "task"))
        title = f"{origin}: {', '.join(plural(len(found), noun) for found, noun in counts)}"
        return Details(origin, title, [("kind", kind)])
    state = attempt(partial(stands, Path(origin)), [], failing="")
    unfinished = state is not None and (state.name != "stopped" or state.frame is not None)
    words = state.words if state and unfinished else f"to frame {last:,}"
    numbers = f"seed{'s' * (len(seeds) > 1)} {' '.join(seeds)}"
    title, complaints = f"{methods[0]}, {tasks[0]}, {numbers}: {words}", list[str]()
    facts = attempt(partial(_facts, Path(origin)), complaints, failing="it cannot be read")
    return Details(origin, title, [("folder", origin), *(facts or []), *((RECORD, why) for why in complaints)])


def _facts(folder: Path) -> list[tuple[str, str]]:
    content = read_record(folder)
    plain = {key: value for key, value in content["settings"].items() if key != "options"}
    facts = [("settings", _words(plain))]
    facts += [("options", _words(content["settings"]["options"]) or "the recipe's defaults")]
    facts += [(f"from frame {s['from_frame']:,}", _words(s, without="from_frame")) for s in content["stretches"]]
    return [(what, how if len(how) <= LONGEST else how[:LONGEST] + " ...") for what, how in facts]


def _words(values: Mapping[str, Any], *, without: str = "") -> str:
    """Nested values in one line."""
    words = []
    for key, value in values.items():
        if key == without or value in (None, [], {}):
            continue
        if isinstance(value, dict):
            words.append(f"{key} ({_words(value)})")
        elif isinstance(value, list):
            words.append(f"{key} {' '.join(map(str, value))}")
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def _pictures(origin: str) -> list[Path]:
    """Wherever one's own order put them: not among checkpoints and events, of which there are many."""
    found, pending = list[Path](), [origin] if os.path.isdir(origin) else []
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending += [] if is_made(entry.name) else [entry.path]
                elif fnmatchcase(entry.name, "*film*strip*.png"):
                    found.append(Path(entry.path))
    return sorted(found)


def _shrunk(path: Path) -> str:
    check_file(path, most=STRIP_BYTES)
    # PNG whatever it is called: Pillow has some formats read by other programs, as PostScript by Ghostscript.
    with disk.open_to_read(path) as file, Image.open(file, formats=["PNG"]) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels")
        small = picture.convert("RGB")
    small.thumbnail((STRIP_WIDTH, STRIP_WIDTH))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=STRIP_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
