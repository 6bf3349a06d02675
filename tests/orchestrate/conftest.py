"""What tests of users' own files need: that nothing of one stays for the next test."""

from collections.abc import Iterator

import pytest

from training import extensions


@pytest.fixture
def own_files() -> Iterator[None]:
    """Whatever is imported in the test is forgotten after it."""
    before = [(registry, dict(registry.entries)) for registry in extensions.registries()]
    loaded = dict(extensions._loaded)
    yield
    for registry, entries in before:
        registry.entries.clear()
        registry.entries.update(entries)
    extensions._loaded.clear()
    extensions._loaded.update(loaded)
