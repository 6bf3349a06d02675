"""The real Slurm for tests is one: it runs jobs, counts GPUs, keeps accounts and requeues."""

import pytest
from real_slurm import GPUS, NODES, RealSlurm
from small_trials import until

pytestmark = pytest.mark.slow


def test_a_job_gets_its_gpus_and_is_accounted_for(slurm: RealSlurm) -> None:
    assert (
        slurm.run("srun", "--job-name=up", "--gres=gpu:1", "printenv", "CUDA_VISIBLE_DEVICES").strip() == "0"
    )
    assert len(slurm.run("srun", "--job-name=up", f"--nodes={NODES}", "hostname").split()) == NODES
    assert slurm.run("sinfo", "--noheader", "--partition=high", "--format=%G").strip() == f"gpu:{GPUS}"
    accounts = ("sacct", "--name=up", "--noheader", "--allocations", "--parsable2", "--format=State")
    until(lambda: slurm.run(*accounts).split() == ["COMPLETED"] * 2)
