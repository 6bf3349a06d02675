"""Word of a sweep's end for a chat or a script: one JSON document, posted to the address in PARAPET_WEBHOOK.

``{"text": ..., "content": ..., "sweep": ..., "state": "finished", "code": 0, "counts": {"finished": 12, ...},
"front": [{"label": ..., "clean": 97.5, "robust": 71.0, "seeds": 2}, ...], "gpu_hours": 3.2}``, or ``core_hours``.
A sweep that an error of its own ended has ``"error": ...`` too. ``text`` is what Slack, Mattermost and Teams show,
``content`` what Discord does. An address may hold a password, so it is in no file that is tracked.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orchestrate import ledger
from orchestrate.runs import Runs
from training.errors import UserError

if TYPE_CHECKING:
    from orchestrate.report import Report

VARIABLE = "PARAPET_WEBHOOK"
PATIENCE_S = 10.0
LONGEST = 500  # characters of an error; chats refuse long texts
STATES = {0: "finished", 1: "failed", 2: "failed"}


def address() -> str | None:
    """Where to post, if anywhere. Raises UserError where that is no http address."""
    given = os.environ.get(VARIABLE)
    if given and (urlsplit(given).scheme not in ("http", "https") or not urlsplit(given).netloc):
        raise UserError(f"{VARIABLE}: should be an http or https address")
    return given or None


def document(runs: Runs, name: str, code: int, report: Report | None, error: str = "") -> dict[str, Any]:
    """What is told of a sweep that ended with an exit code, and perhaps with an error of its own."""
    rows = [row for row in ledger.read(runs.sweep(name).ledger_file) if row.role == "trial"]
    counts = Counter(row.state for row in rows)
    state = STATES.get(code, "stopped")
    points = report.fronts[0].points if report and report.fronts else ()
    front = [
        {
            "label": point.label,
            "clean": round(100 * point.clean, 2),
            "robust": round(100 * point.robust, 2),
            "seeds": len(point.seeds),
        }
        for point in points
        if point.front
    ]
    cost = {report.cost.unit.replace("-", "_").lower(): round(report.cost.hours, 3)} if report else {}
    told = ", ".join(f"{number} {what}" for what, number in counts.items()) or "no trial"
    best = "; ".join(f"{one['label']} {one['clean']:.1f}/{one['robust']:.1f}" for one in front[:6])
    text = f"parapet sweep {name}: {state} ({told})" + (
        f". On the front (clean/robust %): {best}" if best else ""
    )
    text += f": {error}" if error else ""
    return {
        "text": text,
        "content": text,
        "sweep": name,
        "state": state,
        "code": code,
        "counts": dict(counts),
        "front": front,
        **cost,
        **({"error": error} if error else {}),
    }


def tell_error(where: str, runs: Runs, name: str, error: Exception) -> str | None:
    """Post that an error of its own has ended a sweep; what went wrong with that, as :func:`post` does."""
    line = (" ".join(str(error).split()) or type(error).__name__)[:LONGEST]
    mistake = isinstance(error, UserError) or (isinstance(error, OSError) and error.filename is not None)
    try:
        told = document(runs, name, 2 if mistake else 1, None, line)
    except (OSError, ValueError) as problem:  # the store may be what has gone wrong
        return f"{VARIABLE}: the sweep's error was not told: {problem}"
    return post(where, told)


def post(where: str, told: dict[str, Any]) -> str | None:
    """Post it; what went wrong, in one sentence without the address, or None. A sweep's result never hangs on it."""
    request = urllib.request.Request(
        where, json.dumps(told).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            return None
    except urllib.error.HTTPError as error:
        return f"{VARIABLE}: {urlsplit(where).hostname} answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return f"{VARIABLE}: {urlsplit(where).hostname} cannot be told: {error}"
