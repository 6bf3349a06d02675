"""What Slurm says of our jobs, asked once for all of them.

Hundreds of trials are followed by as many processes on one head node. They share one answer of ``squeue``, kept in a
private folder of this machine, and whoever finds it too old asks for all. A job that ``squeue`` does not list any more
is looked up with ``sacct``, all such jobs in one question, until its end is known; where there is no accounting
``squeue`` alone has to do. Slurm not answering changes nothing of what is known.

A job is ours when its comment says so and it works in a directory of our folder; a number alone proves nothing, as
Slurm uses numbers again. A task of an array works in the folder itself, and a table there says whose it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusters.base import State, Unavailable
from clusters.slurm_array import Tables

MARK = "parapet"  # what the comments of our jobs begin with
ANSWER_S = 30.0  # for Slurm to answer a question
SETTLE_S = 30.0  # for sacct to know of an end that squeue knows of already
_FORMAT = "%i|%T|%k|%j|%r|%Z"

_WAITING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}
_ENDS = {
    "COMPLETED": State.ENDED,
    "FAILED": State.ENDED,
    "CANCELLED": State.CANCELLED,
    "OUT_OF_MEMORY": State.KILLED,
    "PREEMPTED": State.LOST,
    "NODE_FAIL": State.LOST,
    "BOOT_FAIL": State.LOST,
    "TIMEOUT": State.LOST,
    "DEADLINE": State.LOST,
    "REVOKED": State.LOST,
    "UNKNOWN": State.GONE,
}


def state_of(word: str) -> State:
    """What Slurm's word for a state comes to; it may go on, like ``CANCELLED by 1000``."""
    first = word.split()[0].rstrip("+") if word.split() else "UNKNOWN"
    return State.WAITING if first in _WAITING else _ENDS.get(first, State.RUNNING)


@dataclass(frozen=True)
class Listed:
    """A job of ours that ``squeue`` lists. ``comment`` is ``parapet sweep=NAME key=KEY nonce=NONCE``."""

    id: str
    state: State
    comment: str
    name: str
    place: str
    completing: bool = False  # over: Slurm is still clearing up after it

    def says(self, field: str) -> str:
        """A field of the comment; empty when it has none."""
        words = dict(word.partition("=")[::2] for word in self.comment.split())
        return words.get(field, "")


@dataclass
class Answer:
    """What is known. ``at`` is when, on this machine's clock that is never set (CLOCK_MONOTONIC)."""

    at: float = -1.0
    tried: float = -1.0  # when it was last asked, whether or not it answered
    trouble: str = ""  # why it did not
    jobs: dict[str, list[str]] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)  # of jobs that are watched: Slurm's word
    watched: dict[str, str] = field(
        default_factory=dict
    )  # the places of jobs whose end somebody wants to know
    missed: dict[str, float] = field(default_factory=dict)  # when a watched job was first not listed


class Queue:
    """Our part of Slurm's queue.

    Args:
        folder: jobs work in its directories.
        period_s: how old an answer may be.
        accounting: is there sacct?
    """

    def __init__(self, folder: Path, period_s: float = 10.0, accounting: bool = True) -> None:
        self.folder, self.period_s, self.accounting = folder.resolve(), period_s, accounting
        told_by = f"{self.folder}\n{os.environ.get('SLURM_CONF', '')}"
        shared = Path(tempfile.gettempdir()) / f"parapet-slurm-{os.getuid()}"
        shared.mkdir(mode=0o700, exist_ok=True)
        if shared.stat().st_uid != os.getuid():
            raise PermissionError(13, "belongs to somebody else", str(shared))
        self._file = shared / f"{hashlib.sha256(told_by.encode()).hexdigest()[:16]}.json"
        self._seen: dict[str, float] = {}  # when a job was first heard of
        self._watched: set[str] = set()
        self._tables = Tables(self.folder)

    def listed(self, within_s: float = 0.0) -> list[Listed]:
        """Our jobs that Slurm lists, or has so seconds ago, ended ones among them. Raises Unavailable."""
        answer = self._answer(time.monotonic() - within_s, must=True)
        return [
            Listed(id, state_of(word), comment, name, place, word == "COMPLETING")
            for id, (word, comment, name, place, _) in answer.jobs.items()
        ]

    def waits(self) -> dict[str, tuple[str, str]]:
        """Number and Slurm's reason of each job that waits, by its key, as was last heard. Asks nothing."""
        return {
            Path(place).name: (id, reason)
            for id, (word, _, _, place, reason) in self._read().jobs.items()
            if state_of(word) is State.WAITING
        }

    def live_at(self, id: str, place: Path) -> bool:
        """Is this job live in that directory? A job that is heard of for the first time is asked for at once."""
        since = self._seen.setdefault(id, time.monotonic())
        answer = self._answer(max(since, time.monotonic() - self.period_s), must=True)
        word = self._word(answer, id, place)
        return word is not None and state_of(word).live

    def watch(self, id: str, place: Path, submitted: bool = True) -> None:
        """Remember that the end of this job is of interest, which may just have been ``submitted``."""
        self.watch_all({id: place}, submitted)

    def watch_all(self, places: Mapping[str, Path], submitted: bool = True) -> None:
        """The same of several."""
        self._seen |= dict.fromkeys(places, time.monotonic())
        self._watched |= places.keys()
        with self._locked():
            answer = self._read()
            news = {id: str(place.resolve()) for id, place in places.items()}
            news = {id: place for id, place in news.items() if submitted or answer.watched.get(id) != place}
            for id, place in news.items():
                answer.watched[id] = place
                answer.ends.pop(id, None)  # of an earlier job that had this number
                answer.missed.pop(id, None)
            if news:
                self._write(answer)

    def state(self, id: str, place: Path) -> State:
        """How a job is; what was last known, where Slurm does not answer."""
        known = id in self._watched
        if not known:  # another process has submitted it
            self.watch(id, place, submitted=False)
        answer = self._answer(time.monotonic() - (self.period_s if known else 0))
        word = self._word(answer, id, place)
        if word is not None:
            return state_of(word)
        if answer.at <= self._seen[id]:
            return State.WAITING
        return state_of(answer.ends.get(id, "RUNNING"))  # that: it has ended, and how is not known yet

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; those in the queue leave it."""
        if ids:
            self._scancel(*ids)

    def tell(self, ids: Sequence[str]) -> None:
        """Take jobs that still wait out of the queue, before others make room for them, and send the rest SIGTERM."""
        if ids:
            self._scancel("--state=PENDING", *ids)
            self._scancel("--signal=TERM", *ids)

    def throttle(self, array: str, parallel: int) -> None:
        """Let so many tasks of an array run at once from now on. Raises Unavailable."""
        run_command("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={parallel}")

    def expire(self) -> None:
        """Let the next question be asked, however new the last answer is."""
        with self._locked():
            answer = self._read()
            answer.at = answer.tried = -1.0
            self._write(answer)

    def _word(self, answer: Answer, id: str, place: Path) -> str | None:
        job = answer.jobs.get(id)
        return job[0] if job is not None and job[3] == str(place.resolve()) else None

    def _answer(self, newer_than: float, must: bool = False) -> Answer:
        """An answer that is not older, if Slurm gives one; Unavailable when it ``must`` be and is not."""
        answer = self._read()
        if answer.at > newer_than:
            return answer
        pause = 0.0 if must else self.period_s
        began = time.monotonic()
        with self._locked():
            answer = self._read()  # another may have asked, in vain perhaps, while we waited
            if answer.at <= newer_than and answer.tried <= began - pause:
                answer.tried = time.monotonic()
                try:
                    self._ask(answer)
                    answer.trouble = ""
                except Unavailable as error:
                    answer.trouble = str(error)
                self._write(answer)
        if must and answer.at <= newer_than:
            raise Unavailable(f"Slurm does not answer: {answer.trouble}")
        return answer

    def _ask(self, answer: Answer) -> None:
        now = time.monotonic()
        user = f"--user={getpass.getuser()}"
        text = run_command("squeue", "--noheader", "--array", user, "--states=all", f"--format={_FORMAT}")
        jobs = {}
        for line in text.splitlines():
            id, word, rest = line.split("|", 2)
            if rest.startswith(f"{MARK} "):
                comment, name, reason, place = rest.split("|", 3)
                whose = self._whose(id, comment, place)
                if whose is not None:
                    jobs[id] = [word, whose[0], name, whose[1], reason]
        answer.at, answer.jobs = now, jobs
        open_ = {id: place for id, place in answer.watched.items() if id not in answer.ends}
        for id, place in open_.items():
            if id in jobs and jobs[id][3] == place:
                answer.missed.pop(id, None)
                if not state_of(jobs[id][0]).live:
                    answer.ends[id] = jobs[id][0]
            else:
                answer.missed.setdefault(id, now)
        self._account(answer, [id for id in open_ if id in answer.missed and id not in answer.ends], now)

    def _whose(self, id: str, comment: str, place: str) -> tuple[str, str] | None:
        """Comment and directory of a job of ours, a task of an array being given what it would have alone."""
        if Path(place).parent == self.folder:
            return comment, place
        if Path(place) != self.folder:
            return None
        words = dict(word.partition("=")[::2] for word in comment.split())
        key = self._tables.key(words.get("nonce", ""), id)
        if key is None:
            return None
        alone = f"{MARK} sweep={words.get('sweep', '')} key={key} nonce={words['nonce']}"
        return alone, str(self.folder / key)

    def _account(self, answer: Answer, ids: list[str], now: float) -> None:
        """Look up the ends of jobs that squeue does not list any more."""
        if ids and self.accounting:
            with contextlib.suppress(Unavailable):
                text = _sacct(ids)
                for line in text.splitlines():
                    id, word, place = line.split("|", 2)
                    places = (answer.watched.get(id), str(self.folder) if "_" in id else None)
                    if place in places and not state_of(word).live and word != "UNKNOWN":
                        answer.ends[id] = word
        for id in ids:
            if id not in answer.ends and (not self.accounting or now - answer.missed[id] > SETTLE_S):
                answer.ends[id] = "UNKNOWN"

    def account(self, id: str) -> list[str]:
        """What sacct knows of this job: Slurm's word for its state, or nothing. Raises Unavailable."""
        return [line.split("|", 2)[1] for line in _sacct([id]).splitlines()]

    def _scancel(self, *words: str) -> None:
        """That a job has ended already is no failure, though scancel calls it one."""
        try:
            run_command("scancel", *words)
        except Unavailable as error:
            if "contact" in str(error) or "timed out" in str(error):
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone on the shared answer, among the processes of this machine."""
        with self._file.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> Answer:
        try:
            facts: dict[str, Any] = json.loads(self._file.read_text())
        except (FileNotFoundError, ValueError):
            return Answer()
        answer = Answer(**facts)
        if (
            answer.at > time.monotonic() or answer.tried > time.monotonic()
        ):  # of before this machine was restarted
            return Answer()
        return answer

    def _write(self, answer: Answer) -> None:
        draft = self._file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(vars(answer)))
        draft.replace(self._file)


def _sacct(ids: Sequence[str]) -> str:
    """Number, state and directory of these jobs, as far as they are known."""
    form = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,WorkDir")
    return run_command("sacct", *form, f"--jobs={','.join(ids)}")


def run_command(*words: str) -> str:
    """What a command of Slurm's prints. Raises Unavailable."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{words[0]}: {error}") from None
    if done.returncode:
        raise Unavailable(
            (done.stderr.strip().splitlines() or [f"{words[0]}: code {done.returncode}"])[-1][:300]
        )
    return done.stdout
