"""What a trial computes: the spec that one directory, one key and one tracked run stand for.

A spec is checked in two steps. Here (pydantic, no torch): shapes, ranges, misspelt fields. In
:mod:`training.resolve` (imports the recipes): the parameters of the named method, model and schedule, with their
defaults filled in. Only a resolved spec has a key.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

IDENTITY = 1  # raise when the meaning of a spec changes, so that old results are not taken for new ones


def fraction(value: Any) -> Any:
    """``"8/255"`` as a number; anything else unchanged."""
    if isinstance(value, str) and value.count("/") == 1:
        above, _, below = value.partition("/")
        try:
            return float(above) / float(below)
        except (ValueError, ZeroDivisionError):
            return value
    return value


Number = Annotated[float, BeforeValidator(fraction), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(fraction), Field(gt=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A section of a file: immutable, and closed to fields that nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(BaseModel):
    """Something registered, by name, with its own parameters beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters given beside the name."""
        return dict(self.__pydantic_extra__ or {})


class MethodChoice(Choice):
    """A recipe, its parameters, and modifiers applied in written order (``with: {wa: {decay: 0.995}}``)."""

    with_: dict[str, dict[str, Any]] = Field(default_factory=dict, alias="with")


class DataSpec(Part):
    """Which images. ``root`` is where they lie, and is no part of what is computed: their contents are."""

    name: str
    root: str | None = None
    train_size: int | None = Field(None, ge=1, description="use only the first so many training images")
    test_size: int | None = Field(None, ge=1, description="use only the first so many test images")
    val: float = Field(0.1, gt=0, lt=1, description="share of the training images held out for selection")
    split_seed: int = Field(0, ge=0, description="which images are held out; independent of the trial's seed")
    augment: Literal["none", "crop-flip"] = "none"


class AttackSpec(Part):
    """The threat model, and the search that training uses against it. Pixels are in [0, 1]."""

    norm: Literal["linf", "l2"] = "linf"
    eps: Positive = Field(description="radius of the ball, in pixel units; 8/255 is allowed")
    steps: int = Field(10, ge=1)
    step_size: Positive | None = Field(None, description="default: eps / 4")

    @model_validator(mode="before")
    @classmethod
    def _step_size_follows_eps(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("step_size") is None:
            eps = fraction(values.get("eps"))
            if isinstance(eps, (int, float)) and math.isfinite(eps) and eps > 0:
                values = values | {"step_size": eps / 4}
        return values


class TrainSpec(Part):
    """Optimiser, schedule and arithmetic."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=1)
    lr: Positive = Field(0.1, description="the highest learning rate of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Choice = Choice(name="onecycle")
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    validate_every: int = Field(1, ge=1, description="epochs between two looks at the validation split")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class TrialSpec(Part):
    """Everything that decides what a trial computes."""

    method: MethodChoice
    data: DataSpec
    model: Choice
    train: TrainSpec = TrainSpec()
    attack: AttackSpec
    selection: Literal["val", "test"] = "val"
    seed: int = Field(0, ge=0)
    helpers: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="networks that the method needs: overrides of a trial of their own, or {path: FILE} or"
        " {run: RUN_ID}; resolved: {key: KEY} or {path: FILE, digest: SHA256}",
    )

    def dump(self) -> dict[str, Any]:
        """Plain data, as written to ``spec.yaml`` and read back by ``TrialSpec.model_validate``."""
        return self.model_dump(mode="json", by_alias=True)

    def identity(self, data_digest: str) -> dict[str, Any]:
        """What the key digests: the resolved spec, contents instead of paths."""
        facts = self.dump()
        facts["data"].pop("root")
        facts["data"]["digest"] = data_digest
        facts["method"]["with"] = [[name, given] for name, given in self.method.with_.items()]
        facts["helpers"] = {
            name: ref.get("key") or ref["digest"] for name, ref in sorted(self.helpers.items())
        }
        return facts | {"identity": IDENTITY}

    def key(self, data_digest: str) -> str:
        """16 hexadecimal digits that stand for the result of this spec on this data."""
        return digest_of(self.identity(data_digest))


def digest_of(facts: Any) -> str:
    """16 hexadecimal digits of SHA-256 over canonical JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists are leaves."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat
