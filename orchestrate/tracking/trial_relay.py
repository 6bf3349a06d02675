"""One trial on its way to MLflow: reads its events as they come, and tells what was not told yet."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.accounts import Account
from orchestrate.events import Follower, Story
from orchestrate.ledger import Row
from orchestrate.locks import Watch
from orchestrate.runs import SweepDir, TrialDir
from orchestrate.tracking import artifacts, content, cursor, origin
from orchestrate.tracking.content import Metric, Metrics, Standing
from orchestrate.tracking.cursor import Cursor
from orchestrate.tracking.tracker import Tracker

AT_ONCE = 40  # groups of metrics between two notes of how far we came


class TrialRelay:
    """Reading (``read``) costs little and is done every second; telling (``tell``) may raise and be done again.

    With ``believe=False`` nothing counts as told: the run is looked for, and everything told, again.
    """

    def __init__(self, trial: TrialDir, sweep: SweepDir, believe: bool = True) -> None:
        self.trial, self.sweep = trial, sweep
        self.story = Story()
        self.rows: Sequence[Row] = ()
        self.run_id = ""
        self._follower = Follower(trial.events)
        self._job = Watch(trial.lock_file)
        self._metrics = Metrics()
        self._waiting: list[tuple[str, list[Metric]]] = []
        self._cursor = cursor.read(trial) if believe else Cursor()
        self._files_due = True

    def read(self, rows: Sequence[Row]) -> None:
        """Take note of the trial's rows in the ledger, and of its new events."""
        self._files_due |= [row.state for row in rows] != [row.state for row in self.rows]
        self.rows = rows
        for event in self._follower.new():
            self.story.tell(event)
            group = self._metrics.of(event)
            if group and not (self.run_id and self._cursor.has(group[0])):
                self._waiting.append(group)
            self._files_due |= event["event"] not in ("epoch", "evaluating")
            if event["event"] == "started":
                self._cursor.status = ""  # a relay that died late may have ended the run meanwhile

    @property
    def begun(self) -> bool:
        """Is there anything to tell? A trial that only waits has no run."""
        return self.story.first_t is not None or content.foremost(self.rows).state == "failed"

    @property
    def account(self) -> Account:
        """What it cost so far."""
        return self._metrics.account

    def job_should_end(self) -> bool:
        """Does a job live whose sweep gave it up, or died?"""
        given_up = content.foremost(self.rows).state == "open" or self.trial.stop_file.exists()
        return given_up and self._job.held()

    def standing(self, ending: bool = False) -> Standing:
        """How it stands now. While the sweep goes on an open trial is given a job, so it counts as alive.

        When the sweep is ``ending`` only a job that lives, and was not asked to stop, keeps a run RUNNING.
        """
        row = content.foremost(self.rows)
        if row.state == "open" and not ending:
            return content.standing(self.story, row, alive=True)
        alive = self._job.held() and not (ending and self.trial.stop_file.exists())
        return content.standing(self.story, row, alive)

    def tell(self, tracker: Tracker, now: Standing) -> None:
        """Tell everything that was not told. Raises what the tracker raises, and
        OSError; called again, it goes on."""
        if not self.run_id:
            self._attach(tracker)
        self._tell_metrics(tracker)
        self._tell_tags(tracker, now)
        if now.status != self._cursor.status:
            tracker.set_status(self.run_id, now.status, self.story.last_t)
            self._cursor.status = now.status
            self._note()
        if self._files_due:
            self._tell_files(tracker, large=now.ended or self.story.trained is not None)

    def _attach(self, tracker: Tracker) -> None:
        """Find or make the run. The cursor counts only if it speaks of this very run."""
        row = content.foremost(self.rows)
        run_id = tracker.trial(self.trial.key, self.story.first_t, row.label or self.trial.key)
        if self._cursor.run_id != run_id:
            self._cursor = Cursor(run_id)
        self._waiting = [group for group in self._waiting if not self._cursor.has(group[0])]
        if not self._cursor.parameters and self.trial.spec_file.exists():
            tracker.log(run_id, parameters=content.parameters(self.trial.spec()))
            self._cursor.parameters = True
        self.run_id = run_id
        self._note()

    def _tell_metrics(self, tracker: Tracker) -> None:
        while self._waiting:
            groups = self._waiting[:AT_ONCE]
            tracker.log(self.run_id, [metric for _, metrics in groups for metric in metrics])
            for name, _ in groups:
                self._cursor.add(name)
            del self._waiting[:AT_ONCE]
            self._note()

    def _tell_tags(self, tracker: Tracker, now: Standing) -> None:
        tags = content.tags(self.story, self.rows, self.sweep.name, now)
        noted = self._origin()
        tags |= noted.tags() if noted else {}
        told = self._cursor.tags
        news = {name: value for name, value in tags.items() if told.get(name) != value}
        gone = [name for name in told if name not in tags and name == "parapet.reason"]
        if news or gone:
            tracker.log(self.run_id, tags=news)
            for name in gone:
                tracker.remove_tag(self.run_id, name)
            self._cursor.tags = {n: v for n, v in (told | tags).items() if n not in gone}
            self._note()

    def _tell_files(self, tracker: Tracker, large: bool) -> None:
        told = self._cursor.artifacts
        for artifact in artifacts.of_trial(self.trial, self.story, self._origin(), large):
            if told.get(artifact.path) != artifact.fingerprint:
                tracker.upload(self.run_id, artifact)
                told[artifact.path] = artifact.fingerprint
                self._note()
        self._files_due = False

    def _origin(self) -> origin.Origin | None:
        """What the trial was run from; unknown when it began before this sweep asked for it."""
        began = self.story.first_t
        if began is None or min(row.t for row in self.rows) > began:
            return None
        return origin.at(self.sweep, began)

    def _note(self) -> None:
        cursor.write(self.trial, self._cursor)
