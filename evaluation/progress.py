"""What an evaluation has found so far, kept in files: one for each attack and batch.

An evaluation that is killed at any point, also in the middle of a write, goes on from the last whole file. Files that
belong to anything else (other weights, other images, another evaluation) are thrown away first.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.files import write_whole

IDENTITY = "identity.json"


@dataclass(frozen=True)
class Verdicts:
    """What one attack did to one batch.

    ``broken`` [N]: a valid adversarial image that the network gets wrong was found. ``strays``: images found that
    were not valid.
    """

    broken: npt.NDArray[np.bool_]
    strays: int
    seconds: float


class Progress:
    """The verdicts so far, in ``folder``, of the evaluation that ``identity`` describes."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        if _read(folder / IDENTITY) != identity:
            discard(folder)
            write_whole(folder / IDENTITY, json.dumps(identity).encode())

    def load(self, attack: str, batch: int, indices: npt.NDArray[np.int64]) -> Verdicts | None:
        """The verdicts on one batch of the images ``indices`` [N]; None when they are not there yet."""
        saved = _read(self._file(attack, batch))
        if saved is None or saved["indices"] != indices.tolist():
            return None
        return Verdicts(np.array(saved["broken"], dtype=bool), saved["strays"], saved["seconds"])

    def save(self, attack: str, batch: int, indices: npt.NDArray[np.int64], verdicts: Verdicts) -> None:
        """Keep the verdicts on one batch. Raises OSError naming the file."""
        facts = asdict(verdicts) | {"indices": indices.tolist(), "broken": verdicts.broken.tolist()}
        write_whole(self._file(attack, batch), json.dumps(facts).encode())

    def _file(self, attack: str, batch: int) -> Path:
        return self.folder / f"{attack}.{batch:05d}.json"


def discard(folder: Path) -> None:
    """Remove the progress in ``folder``, if there is any."""
    if folder.exists():
        shutil.rmtree(folder)


def _read(file: Path) -> dict[str, Any] | None:
    """The content, or None when there is no whole file of ours."""
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
