"""The sbatch script of a job: submitit's, with what a profile and a job say in it."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmExecutor

import clusters
from clusters.base import Job
from clusters.profile import Profile
from clusters.slurm_queue import MARK
from training.errors import UserError

_ROOT = Path(clusters.__file__).parents[1]
PASSED = ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "PATH", "LD_LIBRARY_PATH", "SLURM_CONF")


class Executor(SlurmExecutor):
    """Submits without the environment of the submitter: what jobs get of it stands in the script."""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        kept = [f"{name}={os.environ[name]}" for name in PASSED if name in os.environ]
        return ["env", "-i", *kept, "sbatch", str(submission_file_path)]

    def text(self) -> str:
        """The script as it would be submitted."""
        return str(self._make_submission_file_text(self._submitit_command_str, "")).rstrip() + "\n"

    def submit_as_array(self, calls: Sequence[Callable[[], object]]) -> str:
        """Submit functions as the tasks 0, 1, ... of one array job; its number.

        submitit's own arrays are submitted by a plain SlurmExecutor, which would pass the environment on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        drafts = []
        for number, call in enumerate(calls):
            submission = DelayedSubmission(call)
            submission.set_timeout(self.parameters["time"], self.max_num_timeout)
            drafts.append(self.folder / f"{number}.draft.pkl")
            submission.dump(drafts[-1])
        self.parameters["map_count"] = len(calls)
        job: str = self._submit_command(self._submitit_command_str).job_id
        for number, draft in enumerate(drafts):  # a task that begins before waits for it
            JobPaths(self.folder, f"{job}_{number}").move_temporary_file(draft, "submitted_pickle")
        return job

    @classmethod
    def affinity(cls) -> int:
        """A script can be made, and shown, where there is no Slurm."""
        return 1


def executor(profile: Profile, job: Job, nonce: str) -> Executor:
    """What submits this job. Raises UserError for a job that this profile cannot have."""
    made = Executor(job.directory / "slurm", max_num_timeout=profile.requeue.timeouts, python=profile.python)
    made.update_parameters(**_parameters(profile, job, nonce))
    return made


def array_executor(
    profile: Profile, jobs: Sequence[Job], folder: Path, nonce: str, parallel: int
) -> Executor:
    """What submits these jobs, which are alike but for their directories, as one array of which so many run at once.

    Args:
        folder: what the array leaves. Its tasks begin in the folder that has the jobs' directories.
    """
    first = jobs[0]
    made = Executor(folder, max_num_timeout=profile.requeue.timeouts, python=profile.python)
    given = _parameters(profile, first, nonce)
    given |= {
        "job_name": f"{first.sweep}.array",
        "comment": f"{MARK} sweep={first.sweep} nonce={nonce}",
        "array_parallelism": parallel,
    }
    given["additional_parameters"] |= {"chdir": str(first.directory.resolve().parent)}
    made.update_parameters(**given)
    made.parameters["map_count"] = len(jobs)
    return made


def title(job: Job, nonce: str) -> tuple[str, str]:
    """Name and comment of a job, by which people and we know it."""
    name = f"{job.sweep}.{job.key}" if job.sweep else job.key
    return name, f"{MARK} sweep={job.sweep} key={job.key} nonce={nonce}"


def _parameters(profile: Profile, job: Job, nonce: str) -> dict[str, Any]:
    name, comment = title(job, nonce)
    given: dict[str, Any] = {
        "job_name": name,
        "comment": comment,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "time": profile.time,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": max(1, math.ceil(job.cpus)),
        "mem": profile.memory,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "exclusive": profile.exclusive or None,
        "signal_delay_s": profile.requeue.warning,
        "setup": [f"export {n}={shlex.quote(v)}" for n, v in environment(profile, job).items()]
        + list(profile.setup),
        "wckey": None,
    }
    if profile.mail is not None:
        given |= {"mail_user": profile.mail.to, "mail_type": ",".join(profile.mail.at)}
    given |= _gpus(profile, job)
    further: dict[str, Any] = {"chdir": str(job.directory.resolve())}
    further |= {"requeue": True} if profile.requeue.allowed else {"no-requeue": True}
    if profile.reservation is not None:
        further["reservation"] = profile.reservation
    return given | {"additional_parameters": further}


def _gpus(profile: Profile, job: Job) -> dict[str, Any]:
    if job.gpus == 0:
        return {}
    if job.gpus != int(job.gpus):
        raise UserError(
            f"resources.gpus: Slurm gives whole GPUs, not {job.gpus:g} of one; write resources.gpus=1 for"
            f" --cluster slurm:{profile.file.stem}"
        )
    number = f"{profile.gpu_type}:{job.gpus:g}" if profile.gpu_type else f"{job.gpus:g}"
    return {"gres": f"gpu:{number}"} if profile.gpus_by == "gres" else {"gpus_per_node": number}


def asked_of_slurm(profile: Profile, job: Job) -> dict[str, str | None]:
    """What a profile and a job ask sbatch for beside the job's own name and place, by option; None: no value."""
    options: dict[str, str | None] = {
        name: str(value)
        for name in ("partition", "account", "qos", "constraint", "exclude", "reservation", "time")
        if (value := getattr(profile, name)) is not None
    }
    options |= {"cpus-per-task": str(max(1, math.ceil(job.cpus)))}
    options |= {"mem": profile.memory} if profile.memory else {}
    options |= {"exclusive": None} if profile.exclusive else {}
    options |= {name.replace("_", "-"): value for name, value in _gpus(profile, job).items()}
    if profile.mail is not None:
        options |= {"mail-user": profile.mail.to, "mail-type": ",".join(profile.mail.at)}
    return options


def environment(profile: Profile, job: Job) -> Mapping[str, str]:
    """What the script sets: threads, the code of this process, where data lie, the profile's, the job's."""
    threads = str(max(1, int(job.cpus)))
    found = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    if job.gpus == 0:
        found["CUDA_VISIBLE_DEVICES"] = ""
    if "PARAPET_DATA" in os.environ:
        found["PARAPET_DATA"] = os.environ["PARAPET_DATA"]
    if profile.stage is not None:
        found["PARAPET_STAGE"] = profile.stage  # expanded where it is read, on the node
    for name, value in profile.environment.items():
        if value or name in os.environ:
            found[name] = value or os.environ[name]
    return found | dict(job.env)


def command_of(job: Job) -> tuple[str | None, ...]:
    """The job's command; its first word is None where it is this Python, as that of the nodes may lie elsewhere."""
    first, *rest = job.command
    return (None if first == sys.executable else first, *rest)
