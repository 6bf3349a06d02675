"""What trainings have in common that differ only in seed, place and speed: the digest of a configuration.

A trial's key says which training on which images; this says which training, also where the images are not at hand. It
is a tag of every tracked run (``parapet.configuration``), by which a paper's row finds its repetitions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from training.setups import laid_over
from training.spec import TrialSpec, digest_of

GIVEN = "given"  # a trained network that came as a file: what trained it is not known
SPEED = ("channels_last", "compile")  # of train: the same arithmetic, sooner


def digest(spec: TrialSpec, helpers: Mapping[str, str]) -> str:
    """16 hexadecimal digits for a resolved spec; ``helpers`` has the configuration of each helper network."""
    facts = spec.dump()
    del facts["seed"], facts["data"]["root"]
    if facts["data"]["extra"]:
        del facts["data"]["extra"]["path"]
    for name in SPEED:
        del facts["train"][name]
    facts["method"]["with"] = [[name, given] for name, given in spec.method.with_.items()]
    facts["imports"] = sorted(spec.imports.values())
    return digest_of(facts | {"helpers": dict(sorted(helpers.items()))})


def of_reference(place: Mapping[str, str], trained: TrialSpec) -> str:
    """The configuration of a network that was there already, by where it is and what it was trained as.

    It is known of a trial of this store that needed no others, and :data:`GIVEN` for anything else.
    """
    return digest(trained, {}) if "key" in place and not trained.helpers else GIVEN


def of(spec: TrialSpec) -> tuple[TrialSpec, str]:
    """A spec resolved without looking at any images, and its configuration.

    Helpers that ``spec`` says nothing of, or how to train, are resolved with it; those given as trained networks are
    :data:`GIVEN`. Raises UserError as :func:`training.resolve.resolve`.
    """
    return _of(spec.model_dump_json(by_alias=True))


@functools.lru_cache(maxsize=4096)
def _of(text: str) -> tuple[TrialSpec, str]:
    """Asked again and again of the same rows of a table."""
    from training.resolve import resolve

    spec = TrialSpec.model_validate_json(text)
    resolved = resolve(spec, "")
    helpers = {
        name: GIVEN if helper is None else of(helper)[1]
        for name, helper in helpers_of(spec, resolved).items()
    }
    return resolved, digest(resolved, helpers)


def helpers_of(spec: TrialSpec, resolved: TrialSpec) -> dict[str, TrialSpec | None]:
    """The specs of the networks that a training needs, by name; None for one that is given as a trained network."""
    from orchestrate.helpers import is_reference
    from training.resolve import helper_spec, needed_helpers

    found: dict[str, TrialSpec | None] = {}
    for needed in needed_helpers(resolved):
        given: dict[str, Any] = spec.helpers.get(needed.name) or {}
        given = laid_over(given) if "setup" in given else given
        found[needed.name] = None if is_reference(given) else helper_spec(resolved, needed, given)
    return found
