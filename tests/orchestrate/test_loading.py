"""Garbage is not looked for while a large library loads, and is again afterwards; nothing changes where it is loaded."""

import gc

import pytest

from orchestrate.loading import loading


def test_nothing_is_collected_meanwhile_and_what_was_loaded_is_never_looked_at() -> None:
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), loading("not.there"):
        assert not gc.isenabled()
        with loading("neither"):
            pass
        assert not gc.isenabled(), "the outer block decides"
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen


def test_where_it_is_loaded_nothing_is_done() -> None:
    frozen = gc.get_freeze_count()
    with loading("pytest"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
