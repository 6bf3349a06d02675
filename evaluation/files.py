"""Writing a file so that a reader sees the old content or the new, never half."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(file: Path, content: bytes) -> None:
    """Write beside ``file``, make it durable, then take its name. Folders are made as needed.

    Raises OSError naming ``file`` (a full disk, a read-only folder); nothing is left behind then.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        with contextlib.suppress(
            OSError
        ):  # there is nothing to remove after success, or where no folder could be made
            draft.unlink()
