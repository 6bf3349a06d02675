"""Images on a node's own disk: copied there once by the first trial that needs them, for all that come after.

Which copy is whose is told by the path, names, sizes and times of the files, so other files are another copy. Half a
copy is never used. What cannot be staged (no room, no such disk) is read from where it lies; the trial's key is checked
against whatever is read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from training.data.raw import ROOT_VARIABLE
from training.spec import DataSpec

VARIABLE = "PARAPET_STAGE"  # where to: a folder on the node; may hold variables that are only known there
_OWN = f"parapet-{os.getuid()}"
SPARE = 0.05  # of the disk, that is left free
EMBEDDED = ("digits", "hat-toy")  # read no files, whatever their root says
OWN_FOLDER = {  # where a root holds more than one data set, only this is copied; readers take either as their root
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "tiny-imagenet": "tiny-imagenet-200",
}


def staged(spec: DataSpec, tell: Callable[[str], None]) -> DataSpec:
    """The spec with its files on this node's disk, where VARIABLE names one; else as it was.

    Args:
        tell: hears in a line what was done, or why not.
    """
    to = os.path.expandvars(os.path.expanduser(os.environ.get(VARIABLE, "")))
    if not to:
        return spec
    changes: dict[str, object] = {}
    root = spec.root or os.environ.get(ROOT_VARIABLE)
    if root and spec.name not in EMBEDDED:
        source = Path(root).expanduser()
        own = source / OWN_FOLDER.get(spec.name, "")
        source = own if own.is_dir() else source
        near = _staged(source, Path(to), tell)
        if near != source:
            changes["root"] = str(near)
    if spec.extra is not None:
        extra = _staged(Path(spec.extra.path).expanduser(), Path(to), tell)
        changes["extra"] = spec.extra.model_copy(update={"path": str(extra)})
    return spec.model_copy(update=changes)


def discard(spec: DataSpec) -> None:
    """Remove the copies that a staged spec names, as they are not what they should be."""
    places = [spec.root, spec.extra.path if spec.extra else None]
    for place in [Path(place) for place in places if place]:
        if (
            place.parent.parent.name == _OWN
        ):  # not one that could not be copied, and is read from where it lies
            shutil.rmtree(place.parent, ignore_errors=True)


def _staged(source: Path, to: Path, tell: Callable[[str], None]) -> Path:
    try:
        files = list(_files(source))
        folder = _own(to) / _name(source, files)
        if not folder.is_dir():
            _copy(source, files, folder, tell)
        return folder / source.name
    except OSError as error:
        tell(f"data: {source} is read from where it lies: {error.filename or to}: {error.strerror or error}")
        return source


def _own(to: Path) -> Path:
    """The user's folder on that disk. Raises OSError: no such disk, or somebody else's folder."""
    folder = to / _OWN
    if "$" in str(to):
        raise OSError(2, "holds a variable that is not set here", str(to))
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(13, "belongs to somebody else", str(folder))
    return folder


def _files(source: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file of the data, and what is known of it."""
    if source.is_file():
        yield source, source.stat()
    for folder, folders, names in os.walk(source, followlinks=True):
        folders.sort()
        for name in sorted(names):
            yield Path(folder, name), Path(folder, name).stat()


def _name(source: Path, files: list[tuple[Path, os.stat_result]]) -> str:
    text = "\n".join(
        [str(source.resolve()), *(f"{file} {at.st_size} {at.st_mtime_ns}" for file, at in files)]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _copy(
    source: Path, files: list[tuple[Path, os.stat_result]], folder: Path, tell: Callable[[str], None]
) -> None:
    """Copy, alone on this node; another may have done it while we waited. Raises OSError."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)  # of one that was killed
        size = sum(at.st_size for _, at in files)
        disk = shutil.disk_usage(folder.parent)
        if size > disk.free - SPARE * disk.total:
            raise OSError(28, f"no room for {size / 1e9:.1f} GB", str(folder.parent))
        began = time.monotonic()
        try:
            draft.mkdir()
            if source.is_file():
                shutil.copy2(source, draft / source.name)
            else:
                shutil.copytree(source, draft / source.name)
            draft.rename(folder)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, shutil.Error):  # a list of what went wrong
                raise OSError(5, f"cannot be copied: {error.args[0][0][2]}", str(source)) from None
            raise
        took = time.monotonic() - began
        tell(f"data: {source} was copied to {folder} ({size / 1e6:.0f} MB in {took:.0f} s)")
