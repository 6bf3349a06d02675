"""A real Slurm for tests: one host plays controller, accounting and three nodes with two GPUs each, on loopback.

Everything lives in one private folder and listens on free ports: munged, mariadbd, slurmdbd, slurmctld and a slurmd per
node, each a child of the process that made the :class:`RealSlurm`: it ends them and nothing else, and they end with it.
It works for root and for an ordinary user, whose name all daemons run under. The host's own Slurm is not touched.

What a site has and this has not: users, cgroups, a network, GPUs (links to ``/dev/null``; Slurm counts them and sets
CUDA_VISIBLE_DEVICES all the same).

Partitions: ``low`` is preempted by ``high``, with 15 s of grace, and its jobs are requeued. A requeued job starts
again after five seconds (``cred_expire``), which takes a real site two minutes.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NODES, CPUS, GPUS, MEMORY_MB = 3, 4, 2, 4000
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurmdbd", "munge", "mariadb-server")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "slurmdbd", "munged", "mariadbd", "mariadb-install-db")
INSTALL = f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
ANSWERS = {"slurmdbd": ("sacctmgr", "--noheader", "show", "cluster"), "slurmctld": ("scontrol", "ping")}
_SBIN = ("/usr/sbin", "/sbin")


class BringUpError(RuntimeError):
    """It did not come up; the message says at what, with the last lines of every log."""


def path_of_tools() -> str:
    """PATH with the folders that daemons are in."""
    return os.pathsep.join([os.environ.get("PATH", ""), *_SBIN])


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=path_of_tools()) is None]


def install(*more: str) -> None:
    """Install the Debian packages, and ``more`` of them, where that can be done.

    ``missing`` says afterwards what is still not there.
    """
    if not (missing() or more) or os.getuid() != 0 or shutil.which("apt-get") is None:
        return
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env, "check": False}
    subprocess.run(["apt-get", "update", "-q"], **quiet)  # type: ignore[call-overload]
    command = [*INSTALL.split(), *more, "-o", "DPkg::Lock::Timeout=120"]
    subprocess.run(command, **quiet)  # type: ignore[call-overload]


class RealSlurm:
    """One Slurm, from ``start`` to ``stop``.

    Args:
        folder: where it lives; sockets are in it, so its path must be short (107 bytes with the socket's name).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "etc/slurm.conf"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = _free_ports(NODES + 3)
        self.user = getpass.getuser()

    @property
    def env(self) -> Mapping[str, str]:
        """What commands need in their environment in order to speak with this Slurm."""
        return {"SLURM_CONF": str(self.conf), "PATH": path_of_tools()}

    def start(self) -> None:
        """Bring everything up; returns when all nodes are idle. Raises BringUpError, and then nothing is left."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str, check: bool = True, timeout: float = 30) -> str:
        """Run a Slurm command; its standard output."""
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise BringUpError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def end_jobs(self) -> None:
        """Cancel every job, and wait until none is left."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.run("scancel", f"--user={self.user}", check=False)
            end = time.monotonic() + 15
            while self.run("squeue", "--noheader", check=False).strip() and time.monotonic() < end:
                time.sleep(0.1)

    def stop(self) -> None:
        """End the jobs, then every daemon, those that others need last."""
        if "slurmctld" in self.daemons and self.daemons["slurmctld"].poll() is None:
            self.end_jobs()
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
            if name.startswith("slurmd.") and not name.endswith("1"):
                continue  # nodes end side by side
            self._reap(name)
        for name in self.daemons:
            self._reap(name)

    def restart(self, name: str, forget: bool = False) -> None:
        """End one daemon and start it again; it goes on with the state that it has saved, or forgets it.

        Returns when slurmctld or slurmdbd answer: slurmctld does not stay where slurmdbd is not there when it starts.
        """
        daemon = self.daemons.pop(name)
        daemon.terminate()
        daemon.wait(20)
        for file in (self.folder / "state").glob("job_state*") if forget else ():
            file.unlink()  # even -c would go on with the last job's number
        words = [str(word) for word in daemon.args][4:]  # type: ignore[union-attr]
        self._daemon(name, *[word for word in words if word != "-c"], *["-c"] * forget)
        if name in ANSWERS:
            self._until(name, 30, *ANSWERS[name], of=(name,))

    def _reap(self, name: str) -> None:
        daemon = self.daemons[name]
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _start(self) -> None:
        for name in ("etc", "run", "log", "state", "spool", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._start_munge()
        self._start_accounting()
        self._start_nodes()

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(secrets.token_bytes(128))
        (folder / "key").chmod(0o400)
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        words = [f"--{option}={folder / file}" for option, file in options.items()]
        self._daemon(
            "munged", "munged", "--foreground", *words, f"--log-file={self.folder / 'log/munged.log'}"
        )
        self._until("munge", 20, "munge", "--no-input", f"--socket={folder / 'socket'}")

    def _start_accounting(self) -> None:
        data, socket_file = self.folder / "db", self.folder / "run/db"
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={self.user}"]
        self.run(*made, "--auth-root-authentication-method=normal", "--skip-test-db", timeout=120)
        self._daemon(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            f"--user={self.user}",
            f"--datadir={data}",
            f"--socket={socket_file}",
            f"--pid-file={self.folder / 'run/mariadb.pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.ports[0]}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-lock-wait-timeout=900",
        )
        sql = ["mariadb", "--no-defaults", "--user=root", f"--socket={socket_file}", "--execute"]
        self._until("mariadb", 60, *sql, "select 1")
        user = "slurm@'127.0.0.1'"
        self.run(
            *sql, f"create database jobs; create user {user} identified by 'p'; grant all on jobs.* to {user}"
        )
        conf = self.folder / "etc/slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text(self._slurmdbd_conf())
        self.conf.write_text(self._slurm_conf())
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._until("slurmdbd", 30, *ANSWERS["slurmdbd"])
        self.run("sacctmgr", "--immediate", "--quiet", "add", "cluster", "loopback", check=False)

    def _start_nodes(self) -> None:
        for number in range(GPUS):
            (self.folder / f"etc/gpu{number}").symlink_to("/dev/null")
        files = self.folder / f"etc/gpu[0-{GPUS - 1}]"
        (self.folder / "etc/gres.conf").write_text(f"NodeName=n[1-{NODES}] Name=gpu File={files}\n")
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for number in range(1, NODES + 1):
            self._daemon(f"slurmd.{number}", "slurmd", "-D", "-N", f"n{number}")
        self._until("slurmctld", 30, *ANSWERS["slurmctld"])
        idle = ["sinfo", "--noheader", "--Node", "--partition=low", "--states=idle", "--format=%N"]
        self._wait("idle nodes", 60, lambda: len(self.run(*idle, check=False).split()) == NODES)

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "clusters.child",
                    str(os.getpid()),
                    *command,
                ],  # it ends with us, however we do
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _until(self, what: str, seconds: float, *command: str, of: Sequence[str] = ()) -> None:
        """Until the command works, and no daemon ends meanwhile (``of`` these; of all, if none is named)."""

        def works() -> bool:
            env = os.environ | self.env
            return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0

        self._wait(what, seconds, works, of)

    def _wait(self, what: str, seconds: float, true: Callable[[], bool], of: Sequence[str] = ()) -> None:
        end = time.monotonic() + seconds
        while not true():
            dead = [name for name in of or self.daemons if self.daemons[name].poll() is not None]
            if dead or time.monotonic() > end:
                why = f"{', '.join(dead)} ended" if dead else f"not there after {seconds:g} s"
                raise BringUpError(f"{what}: {why}\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """The last lines of every log."""
        tails = []
        for file in sorted((self.folder / "log").iterdir()):
            tails += [f"== {file.name}", *file.read_text(errors="replace").splitlines()[-5:]]
        return "\n".join(tails)

    def _slurmdbd_conf(self) -> str:
        return f"""
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={self.ports[1]}
SlurmUser={self.user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={self.ports[0]}
StorageUser=slurm
StoragePass=p
StorageLoc=jobs
LogFile={self.folder}/log/slurmdbd.log
PidFile={self.folder}/run/slurmdbd.pid
"""

    def _slurm_conf(self) -> str:
        here = self.folder
        facts = f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
        nodes = "\n".join(
            f"NodeName=n{number} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} {facts}"
            for number, port in enumerate(self.ports[3:], start=1)
        )
        return f"""
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={self.ports[2]}
SlurmUser={self.user}
SlurmdUser={self.user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={here}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool/%n
SlurmctldPidFile={here}/run/slurmctld.pid
SlurmdPidFile={here}/run/slurmd.%n.pid
SlurmctldLogFile={here}/log/slurmctld.log
SlurmdLogFile={here}/log/slurmd.%n.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=10
CompleteWait=0
ReturnToService=1
MinJobAge=600
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self.ports[1]}
AccountingStoragePass={here}/munge/socket
AccountingStorageTRES=gres/gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=15 DefMemPerCPU=100 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF DefMemPerCPU=100 State=UP
"""


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different. Another may take one meanwhile: then bringing up is tried again."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
