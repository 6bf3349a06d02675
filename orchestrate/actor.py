"""A trial's Tune actor: a thin class Trainable around :class:`orchestrate.runner.Runner`.

Hundreds of these may sit on one head node, so it imports neither PyTorch nor MLflow; what trains is a process of its
own.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from clusters.process import Process
from orchestrate.loading import loading
from orchestrate.runner import Report, Runner, Task
from orchestrate.storage.node import here

with loading("ray.tune"):
    from ray import tune

PROXY_CPUS = 0.01  # of an actor that only follows a job elsewhere


class TrialActor(tune.Trainable):  # type: ignore[misc]  # ray is not typed
    """Brings one trial after another to its end; Tune decides which, and whether it may go on."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray reserves: the cores and GPUs of the actor's job, where that runs beside it; else next to nothing."""
        task = config["task"]
        beside = task["cluster"] == "local"
        share = {"CPU": task["cpus"], "GPU": task["gpus"]} if beside else {"CPU": PROXY_CPUS}
        return tune.PlacementGroupFactory([share])

    def setup(self, config: dict[str, Any]) -> None:
        """Attach the actor to its first trial."""
        self.runner = _runner(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial before, which Tune may have stopped, and attach to the next."""
        self.runner.close()
        self.runner = _runner(new_config)
        return True

    def step(self) -> Report:
        """The next thing that the trial has to tell."""
        return self.runner.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trial's directory is its state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a runner goes on from the trial's directory."""

    def cleanup(self) -> None:
        """Stop the trial's job if it is ours and still runs."""
        self.runner.close()


def to_config(task: Task) -> dict[str, Any]:
    """The task as plain data, which Tune can copy, merge and pickle."""
    return {"task": asdict(task)}


def _runner(config: dict[str, Any]) -> Runner:
    task = here(config["task"])
    driver = Process(**task["driver"]) if task["driver"] else None
    return Runner(Task(**task | {"evaluations": tuple(task["evaluations"]), "driver": driver}))
