"""What an evaluation computes. Its digest names its outcome file, so a stronger attack later never retrains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from training.registry import nearest
from training.spec import AttackSpec, Part, Positive, digest_of

TITLES = {
    "pgd": "PGD",
    "autoattack": "AutoAttack",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
}
ATTACKS = tuple(TITLES)
EVALUATION = 1  # raise when the meaning of an evaluation changes


class EvaluationSpec(Part):
    """Attacks on one checkpoint of a trial, on the first ``images`` test images, in the trial's threat model.

    ``pgd`` is PGD on cross-entropy, ``pgd_steps`` steps of ``pgd_step_size`` from each of ``pgd_restarts`` random
    starts, of which the worst counts; ``autoattack`` is the standard ensemble; some of its members can be asked for
    instead, and run as a cascade in its order. Order and repetition of ``attacks`` mean nothing. Batch size is part of
    the digest because AutoAttack's library reseeds per batch.
    """

    attacks: tuple[str, ...] = ("autoattack",)
    checkpoint: Literal["best", "last"] = "best"
    images: int | None = Field(None, ge=1, description="default: all test images")
    batch_size: int = Field(500, ge=1)
    pgd_steps: int = Field(20, ge=1)
    pgd_step_size: Positive | None = Field(None, description="default: eps / 4")
    pgd_restarts: int = Field(1, ge=1)

    @property
    def title(self) -> str:
        """The attacks as people call them: ``AutoAttack``, ``PGD-20 with steps of 0.003 and 5 restarts``."""
        names = [self._pgd() if name == "pgd" else TITLES[name] for name in self.attacks]
        return " and ".join(names)

    def _pgd(self) -> str:
        more = [] if self.pgd_step_size is None else [f"steps of {self.pgd_step_size:.3g}"]
        more += [] if self.pgd_restarts == 1 else [f"{self.pgd_restarts} restarts"]
        return f"PGD-{self.pgd_steps}" + (f" with {' and '.join(more)}" if more else "")

    @field_validator("attacks")
    @classmethod
    def _known(cls, attacks: tuple[str, ...]) -> tuple[str, ...]:
        for name in attacks:
            if name not in ATTACKS:
                raise ValueError(
                    f"no attack '{name}'{nearest(name, ATTACKS)}; there are: {', '.join(ATTACKS)}"
                )
        if not attacks:
            raise ValueError("name at least one attack")
        return tuple(name for name in ATTACKS if name in attacks)

    def digest(self, threat: AttackSpec) -> str:
        """16 hexadecimal digits: this evaluation under this threat model (norm and eps)."""
        facts = self.model_dump(mode="json") | {"norm": threat.norm, "eps": threat.eps}
        for name in ("pgd_step_size", "pgd_restarts"):  # the first outcomes knew neither
            if facts[name] == type(self).model_fields[name].default:
                del facts[name]
        return digest_of(facts | {"evaluation": EVALUATION})
