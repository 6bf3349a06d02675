"""The command line: ``parapet``.

One module per group of commands. Their heads import nothing that computes or tracks, so that ``--help`` and
``ls`` answer at once; a command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrate.cli import cluster, papers
from orchestrate.cli.catalogue import methods
from orchestrate.cli.cluster import reap
from orchestrate.cli.common import RunsOption
from orchestrate.cli.keep import clean
from orchestrate.cli.look import front, logs, ls, show, ui
from orchestrate.cli.networks import evaluate, export
from orchestrate.cli.reproduce import reproduce
from orchestrate.cli.stopping import stop
from orchestrate.cli.sweeping import retry, sweep, train
from orchestrate.cli.sync import sync
from orchestrate.cli.writing import init, schema
from training.errors import UserError

USAGE = 2  # exit code of a user's mistake
PANELS = {
    "Write": (init, schema, methods),
    "Run": (sweep, train, retry, stop, reap, reproduce),
    "Look": (ls, show, logs, front, ui),
    "From elsewhere": (sync,),
    "One network": (evaluate, export),
    "Make room": (clean,),
}

app = typer.Typer(
    name="parapet",
    help="Trains, attacks, tracks and compares adversarially robust image classifiers.",
    epilog="Start with: parapet init sweep.yaml && parapet sweep sweep.yaml --dry-run",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def common(
    ctx: typer.Context,
    runs: RunsOption = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a mistake.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Options before the command are the command's too."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"parapet {version_of('parapet')}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
    if runs is not None:
        ctx.default_map = {name: {"runs": runs} for name in getattr(ctx.command, "commands", {})}


for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)

app.add_typer(cluster.app, name="cluster", rich_help_panel="Run")
app.add_typer(papers.app, name="papers", rich_help_panel="Papers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on stderr, and code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]  # wherever it stands on the line
    try:
        code = typer.main.get_command(app).main(words, prog_name="parapet", standalone_mode=False)
    except UserError as error:
        if debug:
            raise
        return _complain(str(error))
    except typer.TyperException as error:  # the line itself: an unknown command or option, a missing argument
        if debug:
            raise
        return _complain(f"{error.format_message()} (see: {_help_of(error)})")
    except OSError as error:
        if debug or error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}")
    except typer.Abort:
        return _complain("nothing was done", code=1)
    return code if isinstance(code, int) else 0


def _complain(sentence: str, code: int = USAGE) -> int:
    print(f"parapet: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'parapet'} --help"
