"""Per-image outcomes: one Parquet file per evaluation, one row per test image.

========================= ====== =======================================================================
``index``                 int64  place in the test set
``label``                 int64
``clean_prediction``      int64
``clean_margin``          float  logit of the label minus the greatest other logit
``correct``               bool   right on the clean image
one column per attack     bool   still right under it; in AutoAttack's cascade: under it and all before it
``robust``                bool   right on the clean image and under every attack that ran
========================= ====== =======================================================================

The file's metadata are JSON texts under the names of :data:`FACTS`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.files import write_whole
from training.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = (
    "key",  # of the trial's spec
    "evaluation",  # digest of the evaluation
    "spec",  # the EvaluationSpec
    "threat",  # norm and eps
    "checkpoint",  # "best" or "last"
    "network",  # digest of the evaluated weights
    "data",  # digest of the evaluated images and labels
    "seed",
    "classes",
    "cascade",  # AutoAttack's members in the order they ran, each on the images still standing
    "left_out",  # members that cannot be run with so few classes
    "attacked",  # images that each attack was run on
    "strays",  # adversarial images outside the ball or [0, 1], whose verdict did not count
    "seconds",  # per attack
    "folded",  # was BatchNorm folded into the convolutions while searching
    "versions",
)
FIXED = ("index", "label", "clean_prediction", "clean_margin", "correct", "robust")


@dataclass(frozen=True)
class Outcome:
    """What one evaluation found: ``columns`` by name, each [N], and ``facts`` as in :data:`FACTS`."""

    columns: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that have a column, in the order they ran."""
        return tuple(name for name in self.columns if name not in FIXED)

    def metrics(self) -> dict[str, float]:
        """Accuracies in [0, 1]: ``clean``, ``robust`` and one per attack."""
        named = {"clean": "correct", "robust": "robust"} | {name: name for name in self.attacks}
        return {name: float(np.mean(self.columns[column])) for name, column in named.items()}


def write(outcome: Outcome, file: Path) -> None:
    """Write a Parquet file, whole or not at all. Raises OSError naming the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = {name: json.dumps(outcome.facts[name]) for name in FACTS}
    sink = pa.BufferOutputStream()
    columns = {name: _packed(values) for name, values in outcome.columns.items()}
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), sink)
    write_whole(file, sink.getvalue().to_pybytes())


def read(file: Path) -> Outcome:
    """The outcome in ``file``. Raises UserError when there is none, or it is no outcome file, or a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        metadata = table.schema.metadata or {}
        facts = {name: json.loads(metadata[name.encode()]) for name in FACTS}
        columns = {name: _unpacked(table[name]) for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError, KeyError):
        raise UserError(f"{file}: is damaged or no outcome file; evaluate the checkpoint again") from None
    missing = [name for name in FIXED if name not in columns]
    if missing:
        raise UserError(f"{file}: has no column '{missing[0]}'; evaluate the checkpoint again")
    return Outcome(columns, facts)


# pyarrow's own conversions from and to NumPy import pandas, for which every trial would pay with a tenth of its start.


def _packed(values: npt.NDArray[Any]) -> pa.Array:
    """[N] numbers or truths as a column."""
    import pyarrow as pa

    assert values.ndim == 1
    assert values.dtype.isnative
    if values.dtype == bool:
        bits = pa.py_buffer(np.packbits(values, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])
    numbers = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, numbers])


def _unpacked(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The reverse. Raises ArrowException for anything else, also for a column with gaps."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        return _unpacked(column.cast(pa.uint8())).astype(bool)
    chunks = column.chunks or [pa.array([], column.type)]
    return np.concatenate([np.from_dlpack(chunk) for chunk in chunks])
