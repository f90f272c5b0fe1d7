"""The only place where steadyq reads and writes run folders, so that what a disk may do to a run is dealt with here.

Every call of the system goes through `do`, where tests let it fail, stop half-way or kill the process.
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from steadyq.engine.machine import memory
from steadyq.errors import InputError

TEMPORARY = ".tmp-"
"""How the name of a file begins that is not written to its end."""


LARGE = 2**28
"""Bytes of a file that are worth the question whether there is memory for them."""

DEEPEST = 30
"""Folders in folders of a run; its own are three."""

READING = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
"""How a file is opened: a pipe in its place, which nobody writes to, is not waited for, and a link not followed."""


class FileError(InputError):
    """A file that cannot be used: which one, and what is wrong with it. Nothing was changed."""


class Unreadable(OSError):  # noqa: N818, as in "it is unreadable now"
    """A file or folder that may be there and cannot be read now: nothing follows, least of all that it can go.

    No `FileError`: whoever takes another file in the place of a damaged one must not do so here.
    """


def do(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Ask the system for one thing."""
    return operation(*arguments)


def open_to_read(path: Path) -> BinaryIO:
    """A file of a run folder, if it is a plain one; errors as of `read`."""
    try:
        return os.fdopen(_open(path), "rb")
    except OSError as error:
        raise _why(path, error) from None


def read(path: Path, *, size: int | None = None) -> bytes:
    """All of a file of a run folder, or its first `size` bytes if it has as many.

    Raises:
        FileError: there is none; or a link, which may lead anywhere, or a pipe or a device, which might never end.
        Unreadable: anything else.
    """
    try:
        descriptor = _open(path)
        try:
            whole = do(os.fstat, descriptor).st_size
            left = whole if size is None else min(size, whole)
            if left > LARGE and left > memory().available:
                raise Unreadable(f"cannot read {path} now: it is larger than the memory that is free")
            pieces = []
            while left:
                if not (piece := do(os.read, descriptor, left)):
                    raise Unreadable(f"cannot read {path} to its end now; try again")
                pieces.append(piece)
                left -= len(piece)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _why(path, error) from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _open(path: Path) -> int:
    descriptor: int = do(os.open, path, READING)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"cannot read {path}: it is not a regular file")
    return descriptor


def _why(path: Path, error: OSError) -> Exception:
    """What it means that a file could not be read."""
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return FileError(f"there is no {path}")
    if error.errno == errno.ELOOP:
        return FileError(f"cannot read {path}: it is a symbolic link, and a run folder holds none")
    return _unreadable(path, error)


def names(folder: Path) -> list[str]:
    """What is in a folder; nothing if there is none. `Unreadable` if it cannot be known."""
    try:
        return sorted(do(os.listdir, folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from None


def is_there(path: Path | str) -> bool:
    """Whether there is a file, a folder or a link of this name. `Unreadable` if it cannot be known."""
    try:
        do(os.lstat, path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from None
    return True


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder, or a link to one. `Unreadable` if it cannot be known."""
    try:
        return stat.S_ISDIR(do(os.stat, path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise _unreadable(path, error) from None


def _unreadable(path: Path | str, error: OSError) -> Unreadable:
    return Unreadable(
        f"cannot read {path} now ({error.strerror}); try again, and if it stays so, put a copy in its place or move it "
        "away"
    )


def write(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Put a whole file on the disk, or none: there is no moment at which `path` holds a part of it.

    Args:
        path: of the file; its folder is made.
        data: what it is to hold.
        shared: other processes may write the same file at this moment, and the last one's counts. A writer that is
            killed then leaves a temporary file that no later one removes.

    Raises:
        OSError: the disk is full or anything else; what was at `path` is as it was.
    """
    if not path.parent.is_dir():
        do(path.parent.mkdir, 0o777, True, True)
        _sync_folder(path.parent.parent)
    temporary = path.with_name(TEMPORARY + (f"{uuid.uuid4().hex}-" if shared else "") + path.name)
    remove(temporary)  # of a writer that died; whoever put a link there does not choose where we write
    try:
        with do(open, temporary, "xb", 0) as file:
            _put(file, data)
            do(os.fsync, file.fileno())
        do(os.replace, temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
    _sync_folder(path.parent)


def give(path: Path, data: bytes) -> None:
    """Write a file that somebody asked for: as `write`, where a link leads to; a pipe or a device gets the bytes."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write(Path(os.path.realpath(path)), data)


class Appender:
    """A file that grows by whole pieces, and holds nothing else even if the disk fails.

    A piece that could not be written waits in memory, with those that come after it, for the next `append` or `sync`.
    So do the pieces since the last `sync` that worked: one that fails may lose any of them, and they are written again.

    Args:
        path: of the file, which must be there.
        size: the length to cut it back to.

    Raises:
        OSError: here and from its methods.
    """

    def __init__(self, path: Path, *, size: int) -> None:
        self._safe = size  # bytes that are on the disk for good
        self._tail = bytearray()  # what comes after them
        self._written = 0  # how much of that the file has
        self._torn = True  # it may have more
        self._file: BinaryIO = do(open, path, "r+b", 0)
        self._catch_up()

    @property
    def size(self) -> int:
        """The length of the file, as soon as the disk lets it."""
        return self._safe + len(self._tail)

    def append(self, data: bytes) -> None:
        """Add a piece; it counts as given even if there is an error."""
        self._tail += data
        self._catch_up()

    def sync(self) -> None:
        """Put everything on the disk."""
        self._catch_up()
        try:
            do(os.fsync, self._file.fileno())
        except BaseException:
            self._written, self._torn = 0, True
            raise
        self._safe, self._tail, self._written = self.size, bytearray(), 0

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _catch_up(self) -> None:
        if self._torn:
            self._cut()
        if self._written < len(self._tail):
            self._torn = True
            try:
                _put(self._file, bytes(self._tail[self._written :]))
            except BaseException:
                with contextlib.suppress(OSError):
                    self._cut()
                raise
            self._written, self._torn = len(self._tail), False

    def _cut(self) -> None:
        do(os.ftruncate, self._file.fileno(), self._safe + self._written)
        self._file.seek(self._safe + self._written)
        self._torn = False


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.lexists(path):
            do(os.unlink, path)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with everything in it."""
    if path.is_dir() and not path.is_symlink():
        do(shutil.rmtree, path)
    else:
        remove(path)


def refuse_links(folder: Path, *, only: str | None = None) -> None:
    """InputError if a folder holds a symbolic link, through which we could write elsewhere, or a pipe or device.

    Also if folders are nested so deep that nobody could go through them by recursion. `only` what has this name is
    looked at, if it is given. `Unreadable` if it cannot be known.
    """
    pending = [(folder / name, 1) for name in names(folder) if only in (None, name)]
    while pending:
        path, depth = pending.pop()
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # of a run in progress
            continue
        if stat.S_ISDIR(mode):
            if depth == DEEPEST:
                raise InputError(f"{path} is nested deeper than anything in a run folder; move it elsewhere")
            pending += [(path / name, depth + 1) for name in names(path)]
        if stat.S_ISLNK(mode):
            raise InputError(
                f"{path} is a symbolic link, and a run folder holds none; put what it points to in its place"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path} is a pipe or a device, and a run folder holds none; remove it")


def sweep(folder: Path) -> None:
    """Remove what writers left that died, wherever it is in a folder; what cannot be removed is left."""
    for path in folder.rglob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            remove(path)


def _put(file: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[do(file.write, left) :]


def _sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on the disk, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            do(os.fsync, descriptor)
        finally:
            os.close(descriptor)
