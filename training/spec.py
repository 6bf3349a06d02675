"""What a trial computes: the spec that one directory, one key and one tracked run stand for.

A spec is checked in two steps. Here (pydantic, no torch): shapes, ranges, misspelt fields. In
:mod:`training.resolve` (imports the recipes): the parameters of the named method, model and schedule, with their
defaults filled in. Only a resolved spec has a key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from training.errors import UserError
from training.registry import refuse_truth

ANNEALED = ("cosine", "linear", "steps")  # hyperparameters that change: see training.annealing
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

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_truths(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        refuse_truth(value, cls.model_fields[info.field_name].annotation)
        return value


class Choice(BaseModel):
    """Something registered, by name, with its own parameters beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters given beside the name."""
        return dict(self.__pydantic_extra__ or {})


class MethodChoice(Choice):
    """A recipe, its parameters, and modifiers applied in written order (``with: {wa: {decay: 0.995}}``).

    ``hat+awp+wa`` is short for ``{name: hat, with: {awp: {}, wa: {}}}``; parameters may stand beside such a name, and
    modifiers written out under ``with`` come after those of the name (or give them their parameters).
    """

    with_: dict[str, dict[str, Any]] = Field(default_factory=dict, alias="with")

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        return spelt_out(given)


def spelt_out(method: Any) -> Any:
    """``"hat+awp"``, or a section with such a name, as the section that it is short for; anything else unchanged."""
    section = {"name": method} if isinstance(method, str) else method
    if (
        not isinstance(section, dict)
        or not isinstance(section.get("name"), str)
        or "+" not in section["name"]
    ):
        return section
    name, *added = (part.strip() for part in section["name"].split("+"))
    if len(set(added)) < len(added):
        raise UserError(f"method '{section['name']}': a modifier is there twice")
    written = section.get("with") or {}
    if not isinstance(written, dict):
        return section
    return section | {"name": name, "with": {part: {} for part in added} | written}


class ExtraSpec(Part):
    """Images beside the data set's own: pseudo-labelled (RST's pickle) or generated (an .npz)."""

    path: str = Field(description="the file; its contents are part of the trial's key, its place is not")
    share: float = Field(gt=0, lt=1, description="of every minibatch, so much are extra images")


class DataSpec(Part):
    """Which images. ``root`` is where they lie, and is no part of what is computed: their contents are."""

    name: str
    root: str | None = None
    train_size: int | None = Field(None, ge=1, description="use only the first so many training images")
    test_size: int | None = Field(None, ge=1, description="use only the first so many test images")
    val: Annotated[float, BeforeValidator(fraction)] = Field(
        0.1, gt=0, lt=1, description="share of the training images held out for selection"
    )
    split_seed: int = Field(0, ge=0, description="which images are held out; independent of the trial's seed")
    augment: Literal["none", "crop-flip", "resized-crop"] = Field(
        "none",
        description="crop-flip: pad by 4, crop, mirror; resized-crop: a random part of a file's image, scaled"
        " (image folders only)",
    )
    size: int | None = Field(
        None, ge=8, le=512, description="pixels of a side, where the data set can be had in several sizes"
    )
    extra: ExtraSpec | None = None


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
    decay_norms: bool = Field(True, description="does weight decay reach BatchNorm's weights and biases too?")
    validate_every: int = Field(1, ge=1, description="epochs between two looks at the validation split")
    validate_steps: int = Field(20, ge=1, description="of the PGD that the best epoch is chosen by")
    validate_loss: Literal["ce", "margin"] = Field("ce", description="what that PGD increases")

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
    imports: dict[str, str] = Field(
        default_factory=dict,
        description="a user's own files that the spec's names come from, by name; resolved: SHA-256 of each",
    )

    @model_validator(mode="before")
    @classmethod
    def _on_top_of_its_setup(cls, given: Any) -> Any:
        """``setup: NAME`` stands for a paper's training recipe; whatever else is written is laid over it."""
        from training.setups import laid_over

        return laid_over(given) if isinstance(given, dict) and "setup" in given else given

    def dump(self) -> dict[str, Any]:
        """Plain data, as written to ``spec.yaml`` and read back by ``TrialSpec.model_validate``."""
        return self.model_dump(mode="json", by_alias=True)

    def identity(self, data_digest: str) -> dict[str, Any]:
        """What the key digests: the resolved spec, contents instead of paths."""
        facts = self.dump()
        facts["data"].pop("root")
        if facts["data"]["extra"]:
            facts["data"]["extra"].pop("path")
        facts["data"]["digest"] = data_digest
        facts["method"]["with"] = [[name, given] for name, given in self.method.with_.items()]
        facts["imports"] = sorted(self.imports.values())  # contents, whatever the files are called
        facts["helpers"] = {
            name: ref.get("key") or ref["digest"] for name, ref in sorted(self.helpers.items())
        }
        return facts | {"identity": IDENTITY}

    def key(self, data_digest: str) -> str:
        """16 hexadecimal digits that stand for the result of this spec on this data."""
        return digest_of(self.identity(data_digest))


def is_annealed(value: Any) -> bool:
    """Is this one value, ``{cosine: [a, b]}``, rather than a section? (``attack: {steps: 10}`` is a section.)"""
    return (
        isinstance(value, Mapping)
        and len(value) == 1
        and all(kind in ANNEALED and isinstance(given, list | tuple) for kind, given in value.items())
    )


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, ``over`` on top. Naming another method, model or schedule drops the old one's parameters."""
    merged = dict(base)
    for name, given in over.items():
        below = merged.get(name)
        if isinstance(given, Mapping) and isinstance(below, Mapping) and not is_annealed(given):
            renamed = "name" in given and given["name"] != below.get("name")
            merged[name] = dict(given) if renamed and name != "data" else overlay(below, given)
        else:
            merged[name] = given
    return merged


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
