"""Garbage is not looked for while a large library loads, and is again afterwards."""

import gc
import importlib

import pytest

from orchestrate.loading import loading


def test_nothing_is_collected_meanwhile_and_what_was_loaded_is_never_looked_at() -> None:
    frozen = gc.get_freeze_count()
    with loading("not.there"):
        with loading("neither"):
            pass
        assert not gc.isenabled(), "the outer block decides"
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


def test_what_cannot_be_loaded_is_told_and_garbage_is_collected_again() -> None:
    with pytest.raises(ModuleNotFoundError), loading("not.there"):
        importlib.import_module("not_there")
    assert gc.isenabled()


def test_where_it_is_loaded_nothing_is_done() -> None:
    frozen = gc.get_freeze_count()
    with loading("pytest"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
