"""Files that are whole or not there: everything is written to a temporary name, then renamed."""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from nuclei.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]  # how a module that is missing is marked


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    Args:
        path: of the file to be written; its folder is made where it does not exist. A link is replaced, not followed.

    Yields:
        the temporary path, with the same suffix; nothing is there.

    Raises:
        InputError: where `path` is a folder or a device, or another process is writing it.
    """
    require_writable_file(path)
    with _temporary(path) as temporary:
        try:
            yield temporary
            require_writable_file(path)
            temporary.replace(path)
        finally:
            with suppress(OSError):  # what went wrong before says more
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path`; put it in the place of `path` on success, remove it on any error.

    Args:
        path: of the folder to be written; an empty one may exist.
        replace: whether a folder of files may exist, too, as an earlier run wrote it: it is renamed, and its files are
            removed when the new folder has its name. A folder that holds other folders is never replaced.

    Yields:
        the temporary folder, empty.

    Raises:
        InputError: where `path` may not be replaced, before and after the work, or another process is writing it.
    """
    require_replaceable(path, replace)
    with _temporary(path) as temporary:
        try:
            temporary.mkdir()
            yield temporary
            require_replaceable(path, replace)
            _swap(temporary, path.resolve())
        finally:
            _remove_files(temporary)


def require_replaceable(path: Path, replace: bool = False) -> None:
    """Raise InputError unless a new folder may take the place of `path`; see `atomic_directory`."""
    if path.is_symlink():
        raise InputError(f"{path}: a link: name the folder itself")
    if path.name in ("", ".."):
        raise InputError(f"{path}: holds the working folder, or has no name: give a new folder")
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: exists and is not a folder: give a new folder")
    protected = [Path.cwd(), Path(os.path.expanduser("~"))]  # noqa: PTH111 which fails for a user without a home
    if any(folder.exists() and path.samefile(folder) for start in protected for folder in (start, *start.parents)):
        raise InputError(f"{path}: holds your home or the working folder: give a new folder")
    if _is_mount(path.resolve()):
        raise InputError(f"{path}: a mounted disk, which cannot be renamed: give a new folder in it")
    entries = list(os.scandir(path))
    if entries and not replace:
        raise InputError(f"{path}: exists and is not empty: give a new folder")
    if any(entry.is_dir(follow_symlinks=False) for entry in entries):
        raise InputError(f"{path}: holds folders that this program did not write: move it elsewhere")


def _is_mount(path: Path) -> bool:
    """Whether a disk or another folder is mounted at `path`, which is absolute."""
    if os.path.ismount(path):
        return True
    try:
        lines = os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines()
    except OSError:  # the table is Linux's
        return False
    escaped = re.sub(r"[ \t\n\\]", lambda letter: f"\\{ord(letter[0]):03o}", str(path))
    return any(line.split(" ")[4] == escaped for line in lines)


def _swap(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`; the files of a folder that was there are removed last."""
    try:
        new.replace(path)  # POSIX: only an empty folder gives way
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES) or not path.is_dir():
            raise
    earlier = _beside(path, ".old")
    path.rename(earlier)
    try:
        new.rename(path)
    except OSError:
        earlier.rename(path)
        raise
    _remove_files(earlier)


def _remove_files(folder: Path) -> None:
    """Remove the files in a folder, then the folder; where it holds folders, it stays."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)  # noqa: PTH108 of a name as the disk has it
        folder.rmdir()


def require_writable_file(path: Path) -> None:
    """Raise InputError unless `path` may be written: a plain file, or nothing yet."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return  # nothing there, or a dead link
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder: name the file to be written")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: not a plain file, and not to be replaced by one: give another name")


def _beside(path: Path, end: str) -> Path:
    """Return the name of a temporary file beside `path`: the same in every process, and short enough for any disk."""
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()
    return path.with_name(f".{path.stem[:32]}.{digest}{end}")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Give a name beside `path` that no other process has, and that nothing has; an OSError about it names `path`."""
    new_parents = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.parent.resolve() / path.name
    # The suffix stays the real one: NumPy, pandas and matplotlib choose the format by it.
    temporary = _beside(target, f".tmp{path.suffix[:16]}")
    try:
        with _locked(path, _beside(target, ".lock")) as is_locked:
            if is_locked:  # what is there is of a process that was killed
                _remove_files(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
                _finish_swap(target)
            else:
                temporary = _beside(target, f".{secrets.token_hex(8)}.tmp{path.suffix[:16]}")
            yield temporary
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(_beside(target, ""))):
            error.filename = str(path)
        raise
    finally:
        for folder in new_parents:
            with suppress(OSError):  # removes empty folders only
                folder.rmdir()


@contextmanager
def _locked(path: Path, name: Path) -> Iterator[bool]:
    """Hold the lock file `name`, which ends with its process; False where the disk knows no locks.

    Raises InputError where another process holds it.
    """
    lock = None
    while fcntl and lock is None:
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"{path}: another process is writing it: wait for its end, or give another name") from None
        except OSError:  # network disks
            os.close(handle)
            name.unlink(missing_ok=True)
            break
        if _is_open_at(handle, name):
            lock = handle
        else:  # its process has just removed it
            os.close(handle)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            with suppress(OSError):
                name.unlink()
            os.close(lock)


def _finish_swap(path: Path) -> None:
    """End what a process began that was killed in `_swap`: one of the two folders has the name in the end."""
    earlier = _beside(path, ".old")
    if not earlier.is_dir():
        return
    if path.exists():
        _remove_files(earlier)
    else:
        earlier.rename(path)


def _is_open_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def require_distinct(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError where an output is an input, too, or another output, whatever their spelling.

    Links, hard links and disks that take `A` for `a` are seen through. Outputs whose names differ in case or Unicode
    form alone are one: to many a disk they are. Inputs that do not exist are passed over.
    """
    read, taken = {_identity(source) for source in inputs}, set[object]()
    for output in outputs:
        file = _identity(output)
        if file and file in read:
            raise InputError(f"{output}: would be replaced, but is read: give another name for what is written")
        absolute = os.path.abspath(output)  # noqa: PTH100 of what does not exist yet
        name = unicodedata.normalize("NFC", unicodedata.normalize("NFC", absolute).casefold())
        if taken & {name, file or name}:
            raise InputError(f"{output}: two results would have this name: run them with an --out each")
        taken |= {name, file or name}


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what two paths to one file have in common, None where there is no file."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_dev, status.st_ino


def require_file(path: Path) -> None:
    """Raise OSError unless `path` is a plain file: reading a pipe or a device may never end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a plain file", str(path))


class BoundedFile(io.FileIO):
    """A file read in pieces of at most `most` bytes: zipfile takes a zip's list of members, of any length, in one."""

    def __init__(self, path: Path, most: int):
        super().__init__(path)
        self.most = most

    def read(self, size: int | None = -1) -> bytes:
        """Read as `io.FileIO` does. Raises OSError where more than `most` bytes are asked for."""
        if size is not None and size > self.most:
            raise OSError(errno.EFBIG, "too many members", str(self.name))
        return super().read(size)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; its line ends stay as they are."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write `value` with keys in their order, floats with six significant digits, NaN refused (ValueError)."""
    write_text(path, json.dumps(_short(value), indent=2, allow_nan=False) + "\n")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats with six significant digits, lines end with LF."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


NAMES = ("Filename", "First", "Second", "Group")  # columns that are text, whatever they look like


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote; NAMES stay text (0010, NA), and what is empty is ""."""
    return pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False)
