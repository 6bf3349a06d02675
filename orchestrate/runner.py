"""Brings one trial to its end: finds its job or submits it, follows its events, submits it again when it was lost.

This is what a trial's Tune actor does, without Tune. At most one job of a trial lives at a time, across sweeps:
submitting takes the trial's submit lock and looks for a live job first, and a job that starts takes the trial's
live lock or goes. Who finds a live job of somebody else follows it, and goes on from its checkpoint should it end
early: a sweep that stops its own job therefore delays, and never breaks, another sweep that wants the same trial.

Where jobs outlive their submitters (Slurm), a live job of the same sweep is an earlier runner's, and is taken over. A
sweep that ends leaves its jobs to its driver, which ends them all at once, or lets them live: it may have been killed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clusters
from clusters.base import Cluster, Handle, Job, State, Unavailable, recorded, submitted
from clusters.process import Process
from orchestrate.events import Event, Follower, Story, attempts
from orchestrate.locks import Lock, LockHeld, Watch
from orchestrate.reaper import KEY, TOKEN
from orchestrate.runs import Runs, TrialDir, write_whole
from orchestrate.storage import node
from orchestrate.trial import FULL
from training.errors import UserError

LOSSES = 3  # times in a row that a job may be lost without having got anywhere
RETRIED = ("crash", "memory")  # failures that may be the machine's fault
STOP_GRACE_S = 10.0
AGAIN_S = 5.0  # until a cluster that did not answer is asked again
LOCK_WAIT_S = 90.0  # a lock of a dead node is stale after 60 s
_POLL_S = (0.05, 0.5)  # shortest and longest pause between two looks

Report = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What a runner is to bring about.

    Args:
        runs: the store's folder; key, evaluations: the trial in it, and which of its evaluations are wanted.
        cluster: where its job runs; cpus, gpus: what the job gets.
        hours, retries, checkpoint_minutes: the limits of the sweep file.
        sweep: whose trial it is.
        token: marks the sweep's jobs on this machine (see :mod:`orchestrate.reaper`).
        driver: the sweep's; nothing is submitted once it is dead.
        stop_file, spent_file: nor when one of these files is there.
        replay: only tell what has happened so far.
        nonce: of the job that was submitted for it already (see :mod:`orchestrate.ahead`).
        url: the object store that ``runs`` is a local copy of, if it is one.
    """

    runs: str
    key: str
    evaluations: tuple[str, ...]
    cluster: str = "local"
    cpus: float = 1
    gpus: float = 0
    hours: float | None = None
    retries: int = 1
    checkpoint_minutes: float = 5
    sweep: str = ""
    token: str = ""
    driver: Process | None = None
    stop_file: str = ""
    spent_file: str = ""
    replay: bool = False
    nonce: str = ""
    url: str = ""


class Runner:
    """One trial on its way. ``step`` until a report says ``done``; ``close`` in any case."""

    def __init__(self, task: Task, cluster: Cluster | None = None) -> None:
        runs = Runs(Path(task.runs))
        self.task = task
        self.trial: TrialDir = runs.trial(task.key)
        self.cluster = cluster or clusters.open(task.cluster, runs.path / "trials")
        self.follower = Follower(self.trial.events)
        self.story = Story()
        self.reports: deque[Report] = deque()
        self.own: Handle | None = None  # the job, where this runner submitted it
        self.ending: Event | None = None  # how the attempt that is followed said that it ended
        self.crashes = self.losses = 0
        self.attempts_before = 0
        self.finished_at = 0.0
        self.past: tuple[Any, Any] | None = (
            None  # host and number of the process of a job of ours that has ended
        )
        self._live_lock = Watch(self.trial.lock_file)
        # Has a job of somebody else been seen since the last submission? How one ended before does not count.
        self.followed = False
        self.wait_until = 0.0  # before which a cluster that did not answer is not asked again
        self.unavailable: str | None = None  # what waits.txt says; not known yet
        self.old: Handle | None = None  # a job of an earlier runner whose end is to be heard of
        self.saved = (0, 0)  # epoch and step of the furthest checkpoint
        self.begun = False

    def step(self) -> Report:
        """Wait for the next epoch, evaluation or end, and tell of it.

        Returns:
            ``state`` (running, finished, failed, replayed, or stopped with the sweep), ``done``, ``epoch`` (epochs
            done), ``mine`` (is the job this runner's own) and, where there is something new, ``val/clean`` and
            ``val/robust`` or ``clean`` and ``robust``; for a failure ``kind`` and ``reason``.
        """
        if not self.begun:
            self._begin()
        shortest, longest = _POLL_S
        pause = shortest
        while not self.reports:
            if self._listen():
                pause = shortest
                continue
            try:
                end = self._look()
            except Unavailable as error:
                self._say_why(str(error))
                self.wait_until = time.monotonic() + AGAIN_S
                end = None
            else:
                self._say_why("")
            if end is not None:
                return self._report(end.pop("state"), end, done=True)
            time.sleep(pause)
            pause = min(pause * 1.3, longest)
        return self.reports.popleft()

    def _say_why(self, text: str) -> None:
        """For the live view: what the cluster said when it did not answer, or did not take the job."""
        if text == self.unavailable or time.monotonic() < self.wait_until:
            return
        with contextlib.suppress(OSError):
            if text:
                write_whole(self.trial.waits_file, text)
            else:
                self.trial.waits_file.unlink(missing_ok=True)
            self.unavailable = text

    def close(self) -> None:
        """Stop the job if it is this runner's and still lives. It writes a checkpoint, from which it can go on."""
        left = self.cluster.share is not None and self._sweep_ends()
        if self.own is not None and not left and self.cluster.state(self.own).live:
            if not self.story.complete(self.task.evaluations):
                ask_to_stop(self.trial, "pruned")
            self.cluster.stop(self.own, 3 * STOP_GRACE_S if self.task.url else STOP_GRACE_S)
        self.own = None

    def _begin(self) -> None:
        """See how things are. Not before the first step: Tune makes actors that it throws away unused."""
        self.begun = True
        while self.task.url and (problem := node.fetch(self.task.url, self.trial.path, self.task.sweep)):
            print(f"{self.task.key}: {problem}; trying again", file=sys.stderr, flush=True)
            time.sleep(AGAIN_S)
        live = self._attach_if_told()
        followed = self.followed
        self._listen()
        ahead = recorded(self.trial.path) if self.task.nonce and not live else None
        if ahead is not None and ahead.nonce == self.task.nonce:
            self._take_up(ahead)
            return
        self.followed, self.ending = followed, self.ending if live else None
        self.old = None if live else self._ended_meanwhile()

    def _take_up(self, ahead: Handle) -> None:
        """Judge the job that was submitted ahead, and has ended before anybody followed it."""
        self.own, self.followed = ahead, False
        started = self.story.started or {}
        if started.get("submitted") != submitted(self.trial.path):  # what is told is of an earlier one
            self.ending, self.attempts_before = None, self.story.attempt

    def _listen(self) -> bool:
        """Take in new events; were there any?"""
        events = self.follower.new()
        for event in events:
            self.story.tell(event)
            match event["event"]:
                case "started":
                    self.ending, self.followed = None, self.own is None
                case "checkpoint" if (here := (event["epoch"], event["step"])) > self.saved:
                    self.losses, self.saved = 0, here
                case "epoch":
                    self.losses = 0
                    self.reports.append(self._report("running", _numbers(event, "val/clean", "val/robust")))
                case "evaluating":
                    self.losses = 0
                case "evaluated" if not event.get("beside"):
                    self.reports.append(self._report("running", _numbers(event, "clean", "robust")))
                case "stopped" | "failed":
                    self.ending = event
        return bool(events)

    def _look(self) -> Report | None:
        """Do what is to be done now; the final report when there is nothing more to do."""
        if self.task.replay:
            return {"state": "replayed"}
        state = self.cluster.state(self.own) if self.own is not None else State.GONE
        if self.story.complete(self.task.evaluations):
            return self._finish(state.live)
        if self.cluster.share is not None and self._sweep_ends():
            self.own = None  # its driver's, or the next driver's
            return {"state": "stopped"}
        if state.live:
            if self.own is not None and self._sweep_ends():
                self.cluster.stop(self.own, STOP_GRACE_S)
            return None
        if self.old is not None:
            return self._hear_of_old(self.old)
        if self.own is not None and self.cluster.share is not None and self.story.started is not None:
            self.past = self.story.started["host"], self.story.started["pid"]
        if time.monotonic() < self.wait_until:
            return None
        if (
            state is not State.CANCELLED and self._attach()
        ):  # perhaps quicker than our own, which has gone again
            return None
        if self._listen():  # said after the last look and before the end
            return None
        if self.own is None and not self.followed:
            return self._submit()
        return self._judge()

    def _finish(self, live: bool) -> Report | None:
        """There is nothing more to do but to see our own process out."""
        self.finished_at = self.finished_at or time.monotonic()
        if live and (self.task.url or time.monotonic() - self.finished_at < STOP_GRACE_S):
            return None  # an object store may take its time: it is finished when all of it is there
        if self.own is not None and live:
            self.cluster.stop(self.own, STOP_GRACE_S)
        return {"state": "finished"}

    def _attach(self) -> bool:
        """Does somebody run it? Then follow the job; one that this sweep submitted earlier is taken over."""
        found = self.cluster.find(self.task.key)
        if found is not None and self.cluster.share is not None and found.sweep == self.task.sweep:
            self.own, self.followed = found, False
            return True
        if found is not None or self._held():
            self.own, self.followed = None, True
            return True
        return False

    def _attach_if_told(self) -> bool:
        try:
            return self._attach()
        except Unavailable:
            return False

    def _held(self) -> bool:
        """Does somebody hold the trial, other than a job of ours that has ended? (A dead node leaves its lock.)"""
        holder, alive = self._live_lock.look()
        return alive and holder is not None and (holder.process.host, holder.process.pid) != self.past

    def _ended_meanwhile(self) -> Handle | None:
        """The job of an earlier runner of this sweep that ended while nobody looked."""
        handle = recorded(self.trial.path)
        ours = self.cluster.share is not None and handle is not None and handle.sweep == self.task.sweep
        return handle if ours else None

    def _hear_of_old(self, old: Handle) -> Report | None:
        """Did its user cancel the job that ended while nobody looked?"""
        state = self.cluster.state(old)
        if not state.live:  # else it is not known yet
            self.old = None
        return self._cancelled(old) if state is State.CANCELLED else None

    def _cancelled(self, job: Handle) -> Report:
        """Failed, this once: should the trial be asked for again, it will be run."""
        self.cluster.stop(job, 0)
        return _failed("cancelled", "its job was cancelled")

    def _sweep_ends(self) -> bool:
        driver, stop_file = self.task.driver, self.task.stop_file
        return (driver is not None and driver.alive() is False) or bool(
            stop_file and Path(stop_file).exists()
        )

    def _submit(self) -> Report | None:
        """Start the job, unless somebody else was quicker."""
        if self._sweep_ends() or (self.task.spent_file and Path(self.task.spent_file).exists()):
            return {"state": "stopped"}
        self.own, self.followed, self.ending = None, False, None
        try:
            with Lock(self.trial.path / "submit.lock", wait_s=5):
                if self._attach():
                    return None
                self.trial.stop_file.unlink(missing_ok=True)  # asked of an earlier attempt
                numbers = attempts(self.trial.events)
                self.attempts_before = numbers[-1] if numbers else 0
                self.own = self.cluster.submit(self.cluster.plan(job(self.task)))
        except LockHeld:
            self.followed = True
        except UserError as error:
            return _failed("input", str(error))
        except OSError as error:
            return _failed("disk" if error.errno in FULL else "crash", f"cannot be submitted: {error}")
        return None

    def _judge(self) -> Report | None:
        """The job that was followed has ended and the trial is not complete: go on, or give up?"""
        ended = self.cluster.state(self.own) if self.own is not None else State.GONE
        if self.own is not None and ended is State.CANCELLED:
            return self._cancelled(self.own)
        kind, reason = self._why(ended)
        if kind == "lost":
            self.losses += 1
            if self.losses > LOSSES:
                return _failed("crash", f"{reason}, {self.losses} times in a row")
        elif kind in RETRIED:
            self.crashes += 1
            if self.crashes > self.task.retries:
                return _failed(kind, reason)
        else:
            return _failed(kind, reason)
        return self._submit()

    def _why(self, ended: State) -> tuple[str, str]:
        """Kind and reason of an early end; ``lost`` when the trial is not to blame."""
        if self.ending is not None and self.ending["event"] == "failed":
            return self.ending["kind"], self.ending["reason"]
        if self.ending is not None and self.ending["why"] == "cancelled":
            return "cancelled", "stopped by its user"
        if self.ending is not None:
            return "lost", "it was stopped from outside"
        if self.own is None:
            return "lost", "the job of another sweep vanished"
        if ended in (State.LOST, State.GONE):
            return "lost", "its cluster took its job away"
        if self.story.attempt <= self.attempts_before:  # it never got to work: no room, or no Python
            return "lost", f"its job ended before it began{self._last_words()}"
        return (
            "crash",
            f"its process {'was killed' if ended is State.KILLED else 'ended'}{self._last_words()}",
        )

    def _last_words(self) -> str:
        logs = [self.trial.logs / f"{self.attempts_before + 1}.txt"]
        printed = self.cluster.printed(self.own) if self.own is not None else None
        logs = [log for log in (*logs, printed) if log is not None and log.exists() and log.stat().st_size]
        lines = logs[0].read_text(errors="replace").split("\n") if logs else []
        words = [line.strip() for line in lines if line.strip()]
        return f"; the last it printed was: {words[-1][:200]}" if words else ""

    def _report(self, state: str, facts: Report, done: bool = False) -> Report:
        mine = self.own is not None
        return {"state": state, "done": done, "epoch": len(self.story.epochs), "mine": mine} | facts


def job(task: Task) -> Job:
    """The job that trains and evaluates a trial."""
    trial = Runs(Path(task.runs)).trial(task.key)
    numbers = attempts(trial.events)
    number = numbers[-1] + 1 if numbers else 1
    options: dict[str, Any] = {
        "--device": "cuda" if task.gpus else "cpu",
        "--threads": max(1, int(task.cpus)),
        "--checkpoint-minutes": task.checkpoint_minutes,
    }
    if task.gpus:
        options["--gpus"] = task.gpus
    if task.hours is not None:
        options["--hours"] = task.hours
    if task.cluster != "local":
        options["--wait"] = LOCK_WAIT_S
    command = [sys.executable, "-P", "-m", "orchestrate.trial", str(trial.path)]
    command += [str(word) for option in options.items() for word in option]
    if task.evaluations:
        command += ["--eval", *task.evaluations]
    if task.url:
        command = node.command(task.url, trial.path, task.sweep, command)
    log = trial.logs / f"{number}.txt"
    env = {TOKEN: task.token, KEY: task.key} if task.cluster == "local" else {}  # others outlive the sweep
    return Job(task.key, trial.path, tuple(command), task.cpus, task.gpus, log, env, task.sweep)


def ask_to_stop(trial: TrialDir, why: str) -> None:
    """Leave the request that a running trial looks for: ``cancelled`` (by its user) or ``pruned``."""
    write_whole(trial.stop_file, json.dumps({"why": why}))


def _numbers(event: Event, *names: str) -> dict[str, float]:
    return {name: event["metrics"][name] for name in names if name in event["metrics"]}


def _failed(kind: str, reason: str) -> Report:
    return {"state": "failed", "kind": kind, "reason": " ".join(reason.split())}
