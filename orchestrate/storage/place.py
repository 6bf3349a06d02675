"""A folder on an object store, as far as it is needed here: whole objects, listed, read, written and removed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import UserError

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
PINNED = {"s3fs": "'parapet[s3]'"}  # what to install in place of the bare package
ENDPOINT = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "retries": {"max_attempts": 2},
}  # botocore's; we try again
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "created", "mtime", "LastModified")


class Unreachable(RuntimeError):
    """The store did not answer, or not now: the same may work later."""


class Denied(Unreachable):
    """The store answers that this is not allowed; with new credentials it may be."""


@contextmanager
def asking() -> Iterator[None]:
    """Whatever a file system raises, as Unreachable with one line; but for a file that is, or is not, there."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        denied = isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError"
        raise (Denied(why) if denied else Unreachable(why)) from error


class Place:
    """Objects below a prefix, by their path from there. Methods raise Unreachable; reading, FileNotFoundError too.

    Args:
        files: an fsspec file system.
        prefix: bucket and folder in it.
    """

    def __init__(self, files: Any, prefix: str) -> None:
        self.files, self.prefix = files, prefix.rstrip("/")

    @classmethod
    def open(cls, url: str) -> Place:
        """The place with this address. Raises UserError: an unknown protocol, or its package is missing."""
        import fsspec

        protocol = url.partition("://")[0]
        package = PACKAGES.get(protocol)
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f"--runs: {url} needs the package {package}: pip install {PINNED.get(package, package)}"
            )
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if package == "s3fs":
            options["config_kwargs"] = ENDPOINT
        try:
            files, prefix = fsspec.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            known = ", ".join(f"{name}://" for name in ("s3", "gs", "abfs"))
            raise UserError(f"--runs: {url}: {' '.join(str(error).split())} (known are {known})") from None
        return cls(files, prefix)

    def listed(self, below: str = "") -> dict[str, str]:
        """All objects below a path, each with what changes when its contents do; none where there is no such path."""
        with asking():
            try:
                found = self.files.find(self._full(below), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self.files._strip_protocol(self.prefix).rstrip("/")) + 1
        return {
            name[start:]: f"{info.get('size')} {next((info[v] for v in _VERSIONS if info.get(v)), '')}"
            for name, info in found.items()
        }

    def check(self) -> None:
        """Raises FileNotFoundError when there is no such bucket; not when only its list is kept from us."""
        with contextlib.suppress(Denied), asking():
            self.files.ls(self.prefix.partition("/")[0])

    def exists(self, path: str) -> bool:
        """Is there such an object?"""
        with asking():
            return bool(self.files.exists(self._full(path)))

    def read(self, path: str) -> bytes:
        """The contents."""
        with asking():
            return bytes(self.files.cat_file(self._full(path)))

    def write(self, path: str, content: bytes, create: bool = False) -> None:
        """Write it whole. With ``create`` FileExistsError where there is one already, also from this moment."""
        with asking():
            self._make_room(path)
            if not create:
                self.files.pipe_file(self._full(path), content)
                return
            try:
                self.files.pipe_file(self._full(path), content, mode="create")
            except OSError as error:
                if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
                    raise FileExistsError(path) from None
                raise

    def fetch(self, path: str, file: Path) -> None:
        """Copy an object into a file, which others see whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with asking():
                self.files.get_file(self._full(path), str(draft))
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)

    def send(self, file: Path, path: str) -> None:
        """Copy a file, which does not change meanwhile, into an object."""
        with asking():
            self._make_room(path)
            self.files.put_file(str(file), self._full(path))

    def remove(self, paths: list[str]) -> None:
        """Remove objects; one that is not there is removed already."""
        for path in paths:
            with asking():
                try:
                    self.files.rm_file(self._full(path))
                except FileNotFoundError:
                    continue

    def _full(self, path: str) -> str:
        return f"{self.prefix}/{path}" if path else self.prefix

    def _make_room(self, path: str) -> None:
        """Folders, where a file system has such things."""
        if "file" in self.files.protocol or "memory" in self.files.protocol:
            self.files.makedirs(self._full(path).rpartition("/")[0], exist_ok=True)
