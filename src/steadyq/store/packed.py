"""Packs: what is worth sharing of a run as one zip file, and how one that anyone may have made is opened.

Unpacked it is a run folder without checkpoints: run.json, metrics.csv, one snapshot per seed. What else is in it, for
people and robots, steadyq does not read.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from steadyq.errors import InputError
from steadyq.store import disk
from steadyq.store.disk import FileError

SUMS = "SHA256SUMS"
"""The digests of all other files, in the form of `sha256sum`."""

SEED = "seed-[0-9]{1,19}"
MOST = 2**31
LARGEST: dict[str, int] = {
    r"README\.md|run\.json|SHA256SUMS": 2**22,
    r"metrics\.csv": 2**28,
    r"(learning_curve|film_strip)\.png": 2**26,
    rf"{SEED}/(policy\.(onnx|npz)|snapshots/[0-9]{{12}}\.safetensors)": MOST,
}
"""Every name of a file in a pack, as a pattern, and how many bytes such a file may have; all of them, MOST."""

READ = r"run\.json|metrics\.csv|.*\.safetensors"
FOLDERS = rf"{SEED}/(snapshots/)?"
"""What is unpacked; and entries that other programs add, of which nothing is made."""

ENTRIES, DIRECTORY = 5_000, 2**20
"""Files in a pack, and bytes of their list, which is read at once."""

END, END_64, END_BYTES, END_64_BYTES = b"PK\5\6", b"PK\6\7", 22, 20
"""How the end of a zip file begins, and what comes before it in a larger one than a pack may be; their lengths."""

INFLATED = 1032  # times, at most, that deflated bytes become more


def is_pack(place: Path) -> bool:
    """Whether something is to be read as a pack."""
    return place.suffix.lower() == ".zip" and not os.path.isdir(place)


@contextmanager
def opened(place: Path) -> Iterator[Path]:
    """The folder that a pack holds, for as long as it is entered; anything but a pack as it is.

    Raises:
        InputError: it is none, damaged, or not what `to_zip` makes. Nothing was unpacked; and errors of whoever reads
            in the folder name the pack.
    """
    if not is_pack(place):
        yield place
        return
    with TemporaryDirectory(prefix="steadyq-") as temporary:
        folder = Path(temporary) / place.name
        try:
            _unpack(place, folder)
            yield folder
        except InputError as error:
            raise InputError(str(error).replace(str(folder), str(place)), add=error.add) from None


def to_zip(files: Mapping[str, bytes]) -> bytes:
    """A pack of these files and their digests. The same files make the same bytes.

    Raises:
        InputError: they are larger than what is opened again.
    """
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    everything, out = {**files, SUMS: sums.encode()}, io.BytesIO()
    for name, data in everything.items():
        if len(data) > _largest(name):
            raise InputError(f"{name} has {len(data):,} bytes, and a pack takes {_largest(name):,}; pack another run")
    if sum(map(len, everything.values())) > MOST or len(everything) > ENTRIES:
        raise InputError(f"all seeds together are more than {MOST:,} bytes or {ENTRIES:,} files; give one --seed")
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in everything.items():
            info = zipfile.ZipInfo(name)  # made in 1980
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return out.getvalue()


def check_sum(folder: Path, name: str) -> None:
    """FileError if a file of an unpacked pack is another one than was packed; other folders have no such list."""
    if disk.is_there(folder / SUMS):
        _compare(folder / name, disk.read(folder / name), _sums(disk.read(folder / SUMS)).get(name))


def _unpack(place: Path, folder: Path) -> None:
    with disk.open_to_read(Path(os.path.realpath(place))) as file:
        try:
            _check_end(file, place)
            with zipfile.ZipFile(file) as archive:
                infos = _checked(archive, place, size=file.seek(0, os.SEEK_END))
                if shutil.disk_usage(folder.parent).free < sum(info.file_size for info in infos.values()):
                    raise InputError(f"there is no room to unpack {place} in {folder.parent.parent}; set TMPDIR")
                sums = _sums(archive.read(infos[SUMS]))
                for name, info in infos.items():
                    if re.fullmatch(READ, name):
                        data = archive.read(info)
                        _compare(folder / name, data, sums.get(name))
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        (folder / name).write_bytes(data)
        except InputError:
            raise
        # A damaged archive makes zipfile raise anything, EINVAL for a place before its start.
        except Exception as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            why = " ".join(str(error).split())[:200]
            raise FileError(f"{place} is damaged, or no pack ({type(error).__name__}: {why})") from None


def _check_end(file: BinaryIO, place: Path) -> None:
    """FileError unless the list of files is a short one: `zipfile` reads it before anybody could ask how long it is."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_BYTES - END_64_BYTES))
    before, end = (tail := file.read())[:-END_BYTES], tail[-END_BYTES:]
    count, length = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if not end.startswith(END) or before.startswith(END_64) or count > ENTRIES or length > DIRECTORY:
        raise FileError(f"{place} is damaged, or no file of `steadyq pack`")


def _checked(archive: zipfile.ZipFile, place: Path, *, size: int) -> dict[str, zipfile.ZipInfo]:
    """The files of a pack by name, of which nothing was read yet; FileError if there is anything odd about one."""
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name, mode = info.filename, info.external_attr >> 16
        if re.fullmatch(FOLDERS, name):
            continue
        faults = {
            "is no file of a pack": not _largest(name),
            "is there twice": name in infos,
            "is no plain file": stat.S_IFMT(mode) not in (0, stat.S_IFREG),
            "is encrypted": info.flag_bits & 1,
            "is compressed in another way": info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            "is too large": info.file_size > min(_largest(name), INFLATED * (info.compress_size + 1)),
        }
        if why := next((words for words, holds in faults.items() if holds), None):
            raise FileError(f"{place}: {name[:100]!r} {why}")
        infos[name] = info
    if missing := {SUMS, "run.json", "metrics.csv"} - infos.keys():
        raise FileError(f"{place} is no pack: it has no {min(missing)}")
    if sum(info.compress_size for info in infos.values()) > size:
        raise FileError(f"{place} is no pack: its files lie over each other")
    if sum(info.file_size for info in infos.values()) > MOST:
        raise FileError(f"{place} is no pack: its files have more than {MOST:,} bytes")
    return infos


def _largest(name: str) -> int:
    """How large a file of this name may be; 0 if a pack has none."""
    return next((most for pattern, most in LARGEST.items() if re.fullmatch(pattern, name)), 0)


def _sums(data: bytes) -> dict[str, str]:
    """Digests by name."""
    lines = (line.partition("  ") for line in data.decode(errors="replace").splitlines())
    return {name: digest for digest, _, name in lines}


def _compare(path: Path, data: bytes, wanted: str | None) -> None:
    if hashlib.sha256(data).hexdigest() != wanted:
        raise FileError(f"{path} is damaged or was edited: its SHA-256 is another one than in {SUMS}")
