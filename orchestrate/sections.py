"""The sections of a sweep file beside what is trained: how it is searched, judged, and run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from evaluation.spec import EvaluationSpec
from training.spec import Part, Positive

Attacks = Annotated[tuple[str, ...], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class Search(Part):
    """How configurations are chosen: all of them (grid), at random, or learning from results (optuna)."""

    name: Literal["grid", "random", "optuna"] = "grid"
    samples: int | None = Field(
        None, ge=1, le=100_000, description="how many configurations; each runs with every seed"
    )
    seed: int = Field(0, ge=0)
    sampler: Literal["tpe", "nsga2"] = Field("tpe", description="optuna's algorithm")

    @model_validator(mode="after")
    def _samples_belong_to_sampling(self) -> Self:
        if self.name == "grid" and self.samples is not None:
            raise ValueError("grid search runs everything; leave samples out, or search at random")
        if self.name != "grid" and self.samples is None:
            raise ValueError(f"{self.name} search needs samples: how many configurations to try")
        return self


class Scheduler(Part):
    """Who ends trials early. ASHA stops the worse ones at grace_epochs, times reduction, times reduction, ..."""

    name: Literal["none", "asha"] = "none"
    metric: Literal["val/robust", "val/clean"] = "val/robust"
    grace_epochs: int = Field(1, ge=1)
    reduction: int = Field(3, ge=2, description="of so many trials, one goes on")


class Also(Part):
    """An evaluation beside the first one, which it follows in all that it does not say."""

    attacks: Attacks | None = None
    checkpoint: Literal["best", "last"] | None = None
    images: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    pgd_steps: int | None = Field(None, ge=1)
    pgd_step_size: Positive | None = None
    pgd_restarts: int | None = Field(None, ge=1)


class Evaluate(EvaluationSpec):
    """What every trial is judged by, after training."""

    attacks: Attacks = EvaluationSpec.model_fields["attacks"].default
    checkpoint: Literal["best", "last", "both"] = "best"  # type: ignore[assignment]  # `both` is two evaluations
    also: tuple[Also, ...] = Field((), description="further evaluations, each with an outcome of its own")

    @model_validator(mode="after")
    def _each_can_be_done(self) -> Self:
        self.specs()
        return self

    def specs(self) -> tuple[EvaluationSpec, ...]:
        """One evaluation per checkpoint, and those beside; the first is the one that the front goes by."""
        checkpoints = ("best", "last") if self.checkpoint == "both" else (self.checkpoint,)
        facts = self.model_dump(exclude={"also"}) | {"checkpoint": checkpoints[0]}
        further = [{"checkpoint": checkpoint} for checkpoint in checkpoints]
        further += [one.model_dump(exclude_none=True) for one in self.also]
        return tuple(dict.fromkeys(EvaluationSpec.model_validate(facts | one) for one in further))


class Resources(Part):
    """What one trial gets."""

    cpus: float = Field(1, gt=0)
    gpus: float | None = Field(None, ge=0, description="default: 1 where there is a GPU; fractions allowed")

    @field_validator("gpus")
    @classmethod
    def _one_gpu_at_most(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1:
            raise ValueError("a trial runs on one GPU at most; give 1 or a fraction, and more trials at once")
        return gpus


class Limits(Part):
    """When a trial is ended or tried again."""

    hours: float | None = Field(None, gt=0, description="wall clock per trial; it then ends as failed (time)")
    gpu_hours: float | None = Field(
        None, gt=0, description="of all trials together; once they are spent nothing more is submitted"
    )
    retries: int = Field(1, ge=0, description="after a crash or out of memory")
    checkpoint_minutes: float = Field(5, gt=0)
