"""How runs were made, for a reader: options, versions, commit and machine of run folders, and film strips in them."""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from steadyq.results.runs import Run

STRIP_WIDTH, STRIP_QUALITY = 1400, 82  # pixels, and of JPEG
STRIPS_BYTES = 1_200_000  # of all film strips in one page


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
        for path in sorted(Path(origin).glob("**/*film*strip*.png") if Path(origin).is_dir() else []):
            try:
                address = _shrunk(path)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                complaints.append(f"{path} cannot be read as a picture ({error})")
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
    seeds = " ".join(dict.fromkeys(run.seed for run in runs))
    tasks = list(dict.fromkeys(run.task for run in runs))
    methods = list(dict.fromkeys(run.method for run in runs))
    last = max(int(run.env_step[-1]) for run in runs)
    record = Path(origin) / "run.json"
    if not record.is_file():
        title = f"{origin}: {len(runs)} runs, {len(methods)} methods, {len(tasks)} tasks"
        return Details(origin, title, [("kind", "a table: how the runs were made is not in it")])
    title = f"{methods[0]}, {tasks[0]}, seed {seeds}: to frame {last:,}"
    try:
        content = json.loads(record.read_text())
        facts = [("folder", origin), *_settings(content["settings"])]
        facts += [(f"from frame {s['from_frame']:,}", _words(s, without="from_frame")) for s in content["stretches"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Details(origin, title, [("folder", origin), ("run.json", f"cannot be read ({error!r})")])
    return Details(origin, title, facts)


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    plain = {key: value for key, value in settings.items() if key != "options"}
    return [("settings", _words(plain)), ("options", _words(settings["options"]) or "the recipe's defaults")]


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


def _shrunk(path: Path) -> str:
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((STRIP_WIDTH, STRIP_WIDTH))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=STRIP_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
