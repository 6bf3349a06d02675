"""The tracking store: MLflow, by default one SQLite file inside RUNS that needs no server.

``MLFLOW_TRACKING_URI`` wins over the default. MLflow is imported inside the functions: it costs a second, and the
command line starts without it.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from orchestrate.loading import loading
from orchestrate.locks import Lock, LockHeld
from orchestrate.runs import Runs
from training.errors import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

INITIALISING_S = 120.0  # a first start on a slow shared folder
CONNECTING_S = 10

# Without it MLflow opens an experiment as one of language models, and shows no runs at first.
KIND = {"mlflow.experimentKind": "custom_model_development"}


def uri(runs: Runs) -> str:
    """Where runs are tracked: ``MLFLOW_TRACKING_URI``, else the database inside RUNS."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.path / 'mlflow.db'}"


def shown(where: str) -> str:
    """A store's address, or a line with one in it, as it may be printed: without its password."""
    return re.sub(r"(://[^:/@\s]*):\S+@", r"\1:***@", where)


def is_server(where: str) -> bool:
    """Whether a store is reached through a server, which then decides where artifacts lie."""
    return where.startswith(("http://", "https://", "databricks"))


def prepare(runs: Runs) -> MlflowClient:
    """A client of the store, whose database exists and has its tables.

    MLflow makes the tables when the first client comes, and two that come at once break each other's work, so
    that is done under a lock. Raises UserError when the store cannot be used.
    """
    where = uri(runs)
    quieten()
    with loading("mlflow"):
        import mlflow.tracking

        if not is_server(where):
            import mlflow.store.tracking.sqlalchemy_store
    with _usable(runs):
        runs.path.mkdir(parents=True, exist_ok=True)
        with Lock(runs.path / "mlflow.lock", wait_s=INITIALISING_S):
            _probe(where)
            client = mlflow.tracking.MlflowClient(where)
            client.search_experiments(max_results=1)
    return client


def identity(runs: Runs) -> str:
    """16 hexadecimal digits that tell this RUNS from others on the same server, also after it was moved.

    Raises OSError when it cannot be written.
    """
    file = runs.path / "identity"
    if not file.exists():
        draft = runs.path / f".identity.{secrets.token_hex(8)}"
        draft.write_text(secrets.token_hex(8))
        try:
            os.link(draft, file)  # whole at once, and only by the first of several
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text()


def experiment(client: MlflowClient, runs: Runs, project: str) -> str:
    """The id of the project's experiment: made when there is none, restored when it was deleted.

    Raises UserError when the store cannot be used.
    """
    from mlflow.exceptions import MlflowException

    where = uri(runs)
    folder = re.sub(r"[^\w-]", "-", project)  # any text may be a project's name, but not a path in RUNS
    root = None if is_server(where) else (runs.path / "mlartifacts" / folder).as_uri()
    with _usable(runs):
        found = client.get_experiment_by_name(project)
        if found is None:
            try:
                return str(client.create_experiment(project, artifact_location=root, tags=KIND))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(project)  # another sweep was quicker
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


@contextmanager
def _usable(runs: Runs) -> Iterator[None]:
    """Says in one sentence why a store cannot be used, whichever library found out."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, ImportError, LockHeld, sqlite3.Error, SQLAlchemyError, MlflowException) as error:
        raise unusable(runs, _why(error)) from error


def _why(error: Exception) -> str:
    if isinstance(error, ImportError) and "psycopg" in str(error):
        return f"{error}; PostgreSQL needs: pip install 'parapet[postgres]'"
    return str(error) or type(error).__name__


def unusable(runs: Runs, why: str) -> UserError:
    """The error for a store that cannot be used, in one line."""
    given = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "--runs"
    line = why.strip().partition("\n")[0][:300]
    return UserError(shown(f"{given}: the tracking store {uri(runs)} cannot be used: {line}"))


def quieten() -> None:
    """Settings of MLflow that a user may overrule: no chatter, no telemetry, patience left to the caller."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    }.items():
        os.environ.setdefault(name, value)


def _probe(where: str) -> None:
    """Make a table in a database and take it back: MLflow would try ten times, for minutes, before it gave up."""
    if where.startswith("sqlite:///"):
        address = where.removeprefix("sqlite:///")
        with closing(sqlite3.connect(address, timeout=30, uri=address.startswith("file:"))) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("CREATE TABLE parapet_probe (x)")
            database.rollback()
    elif where.startswith("postgresql"):
        import sqlalchemy

        engine = sqlalchemy.create_engine(where, connect_args={"connect_timeout": CONNECTING_S})
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("CREATE TABLE parapet_probe (x int)"))
                connection.rollback()
        finally:
            engine.dispose()
