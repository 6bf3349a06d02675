"""Checkpoints: ``last.pt`` holds everything that resuming needs, ``best.pt`` the network worth evaluating.

A file is an ordinary ``torch.load`` archive whose zip comment is the SHA-256 of what comes before it, so it carries
its own checksum and cannot be separated from it. Writing: a temporary file, fsync, read back and checked, and only
then the file before it becomes ``previous.pt``. Reading never unpickles (``weights_only=True``).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from training import extensions
from training.errors import UserError
from training.models import build as build_model
from training.recipes import build as build_method
from training.spec import TrialSpec

FORMAT = 1
log = logging.getLogger(__name__)
HEAD = {"key", "spec", "facts", "epoch"}
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
_END = b"PK\x05\x06"  # the zip directory's end record is 22 bytes; its last two hold the comment's length


def save(content: dict[str, Any], file: Path, keep: Path | None = None) -> str:
    """Write ``content`` (tensors and plain data) whole or not at all; returns its SHA-256.

    Args:
        keep: where the file that stood there before goes, once the new one is verified.

    Raises:
        OSError: naming the file; nothing that was there before is lost.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    archive = buffer.getvalue()
    assert archive[-22:-18] == _END, "torch.save wrote an archive without a comment"
    body = archive[:-2]
    checksum = hashlib.sha256(body).hexdigest()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.tmp")
    try:
        with draft.open("wb") as out:
            out.write(body + len(checksum).to_bytes(2, "little") + checksum.encode())
            out.flush()
            os.fsync(out.fileno())
        if _checked(draft) is None:
            raise OSError(f"{draft}: what was written cannot be read back")
        if keep is not None and file.exists():
            file.replace(keep)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, f"{file}: cannot be written: {error.strerror or error}") from None
    return checksum


def load(file: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of one checkpoint file.

    Raises:
        UserError: naming the file, when it is missing, truncated, damaged, or no checkpoint of ours.
    """
    try:
        body = _checked(file)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    if body is None:
        raise UserError(
            f"{file}: is truncated, damaged, or no parapet checkpoint (its checksum does not hold)"
        )
    try:
        content: Any = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except UnpicklingError:
        raise UserError(f"{file}: holds more than tensors and plain data, which is never loaded") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= HEAD:
        raise UserError(f"{file}: is not a parapet checkpoint of format {FORMAT}")
    found: dict[str, Any] = content
    return found


def load_latest(folder: Path, key: str, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest checkpoint that can be trusted: ``last.pt``, else ``previous.pt``, else None.

    Raises:
        UserError: when it belongs to another spec.
    """
    for name in (LAST, PREVIOUS):
        try:
            content = load(folder / name, device)
        except UserError as error:
            if (folder / name).exists():
                log.warning("%s; it is left aside", error)
            continue
        _expect(content, folder / name, key)
        return content
    return None


def expect(file: Path, key: str) -> None:
    """Raise UserError when the checkpoint is unreadable or of another spec than the one with this key."""
    _expect(load(file), file, key)


def position(folder: Path, key: str) -> tuple[int, int]:
    """The (epoch, step) at which training would go on; (0, 0) without a checkpoint."""
    content = load_latest(folder, key)
    return (0, 0) if content is None else (content["epoch"], content["step"])


def load_network(
    file: Path, *, device: torch.device | str = "cpu"
) -> tuple[nn.Module, TrialSpec, dict[str, Any]]:
    """The network that a checkpoint's method evaluates, in eval mode on ``device``; its spec; and facts.

    Facts: ``key``, ``classes``, ``shape`` (C, H, W), ``epoch`` (that the weights are of), ``mean``, ``std``.

    Raises:
        UserError: as :func:`load`, or it needs a user's own file that nobody has loaded.
    """
    content = load(file, device)
    spec = TrialSpec.model_validate(content["spec"])
    extensions.expect(spec.imports, str(file))
    facts = content["facts"]
    method = build_method(spec.method, spec.attack)
    network = build_model(
        spec.model,
        tuple(facts["shape"]),
        facts["classes"],
        tuple(facts["mean"]),
        tuple(facts["std"]),
        method.head,
    )
    state = content["network"] if "network" in content else content["networks"][method.evaluate]
    network.load_state_dict(state)
    network.to(device).eval()
    return network, spec, facts | {"key": content["key"], "epoch": content["epoch"]}


def _checked(file: Path) -> bytes | None:
    """The archive without its comment, or None when its checksum does not hold."""
    data = file.read_bytes()
    body, size, comment = data[:-66], data[-66:-64], data[-64:]
    if len(data) < 88 or body[-20:-16] != _END or size != (64).to_bytes(2, "little"):
        return None
    if hashlib.sha256(body).hexdigest().encode() != comment:
        return None
    return body + b"\0\0"


def _expect(content: dict[str, Any], file: Path, key: str) -> None:
    if content["key"] != key:
        raise UserError(f"{file}: is of another spec (key {content['key']}, wanted {key})")
