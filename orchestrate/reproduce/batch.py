"""``batch.sh``: a plain shell script that trains and evaluates, by ``bash batch.sh`` or ``sbatch batch.sh``.

It needs the folder that it lies in and an interpreter with the packages: no driver, no Ray, no tracking server.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OWN = (
    "--job-name",
    "--output",
    "--error",
    "--chdir",
    "--comment",
    "--wckey",
    "--array",
)  # the script says these
SET_BELOW = re.compile(r"export (PYTHONPATH|CUDA_VISIBLE_DEVICES|\w+_NUM_THREADS)=")

RUN = """\
# One trial. An end that is asked for (scancel, Slurm's warning before the limit) reaches it: it writes a checkpoint
# and goes, and the next time it goes on from there.
trial=
trap '[ -z "$trial" ] || kill -TERM "$trial"' TERM INT USR2
run() {
    "${python[@]}" -P -m orchestrate.trial "$@" &
    trial=$!
    code=0
    wait "$trial" || code=$?
    while kill -0 "$trial" 2>/dev/null; do  # it was the waiting that a signal ended
        code=0
        wait "$trial" || code=$?
    done
    trial=
    [ "$code" -eq 0 ] || { echo "== ended with exit code $code"; exit "$code"; }
}"""


@dataclass(frozen=True)
class Step:
    """One trial to run: ``title`` is what the script says of it, ``evaluations`` are digests."""

    key: str
    title: str
    evaluations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Site:
    """What a cluster's profile adds to a script: ``#SBATCH`` lines, and lines of shell before Python starts."""

    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How the script runs: nothing of it is part of what is computed, but threads and device may decide last bits.

    Args:
        python: what starts the interpreter where the script runs, as shell text.
        device: cpu, cuda, or auto.
        installed: the source is not parapet's own: an installed parapet runs.
    """

    python: str
    device: str
    threads: int
    installed: bool = False


def site(submitted: str) -> Site:
    """What a cluster would put into a script of its own, from the text that it shows of one.

    Slurm's warning before the limit goes to the script, which tells its trial.
    """
    lines = submitted.splitlines()
    directives = [
        line.replace("--signal=USR2", "--signal=B:USR2")
        for line in lines
        if line.startswith("#SBATCH ") and line.split()[1].partition("=")[0] not in OWN
    ]
    setup: list[str] = []
    if "# setup" in lines and "# command" in lines:
        between = lines[lines.index("# setup") + 1 : lines.index("# command")]
        setup = [line for line in between if line.strip() and not SET_BELOW.match(line)]
    return Site(tuple(directives), tuple(setup))


def script(
    folder: Path,
    name: str,
    about: Sequence[str],
    steps: Sequence[Step],
    settings: Settings,
    at: Site,
    then: str,
) -> str:
    """The text of the script.

    Args:
        folder: which holds ``source`` and ``runs``.
        name: of the job.
        about: sentences for its head.
        then: the command that is next when it has run.
    """
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name={name}",
        f"#SBATCH --output={shlex.quote(str(folder / 'log.txt').replace('%', '%%'))}",
        "#SBATCH --open-mode=append",
        *(line for line in at.directives if "--open-mode" not in line),
        "#",
        *(f"# {_line(text)}" for text in about),
        "#",
        "# `bash batch.sh` and `sbatch batch.sh` do the same. What is complete is not done again, and what was",
        "# interrupted goes on. When it has run:",
        f"# {_line(then)}",
        *(["", "# The site's own.", *at.setup] if at.setup else []),
        "",
        "# This folder, and a Python with the packages of environment.txt. Change the lines when they move.",
        f"here={shlex.quote(str(folder))}",
        f"python=({settings.python})",
    ]
    body = ["", "set -eu", *_environment(settings), "", RUN]
    where = 'import orchestrate.trial as code; print("code      ", code.__file__)'
    body += [
        "",
        'cd "$here"',
        'echo "folder     $here"',
        'echo "host       $(hostname)"',
        f'"${{python[@]}}" -P -c {shlex.quote(where)}',
    ]
    for number, step in enumerate(steps, 1):
        title = _line(step.title)
        body += ["", f"# {number}. {title}", f"echo {shlex.quote(f'== {number} of {len(steps)}: {title}')}"]
        body += [f'run "$here/runs/trials/{step.key}" {_options(step, settings)}']
    return "\n".join([*head, *body, "", "echo '== done'", ""])


def _environment(settings: Settings) -> list[str]:
    threads = settings.threads
    lines = [
        "# The logged code runs: no checkout, and no installed parapet."
        if not settings.installed
        else "# The logged files are in reach; parapet itself is what is installed.",
        'export PYTHONPATH="$here/source"',
        "unset PYTHONHOME PYTHONSTARTUP",
        f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}",
    ]
    return lines + (["export CUDA_VISIBLE_DEVICES="] if settings.device == "cpu" else [])


def _options(step: Step, settings: Settings) -> str:
    options = f"--device {settings.device} --threads {settings.threads}"
    return options + (f" \\\n    --eval {' '.join(step.evaluations)}" if step.evaluations else "")


def _line(text: str) -> str:
    """A text, perhaps of the store, in one line: so that a comment ends where it should."""
    return " ".join(text.split())
