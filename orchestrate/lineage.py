"""Which commit the trials that are there were trained from. It is no part of a key: a difference is a warning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from orchestrate import ledger, provenance
from orchestrate.events import story
from orchestrate.runs import Runs
from orchestrate.tracking import origin


def from_other_commits(runs: Runs, keys: Collection[str]) -> list[str]:
    """One sentence for each commit, other than the one at hand, that trained some of these trials."""
    at_hand = provenance.git(provenance.running_from(), exclude=runs.path)
    if at_hand is None:
        return []
    trained: dict[str, set[str]] = defaultdict(set)
    for sweep in runs.sweeps():
        for key in {row.key for row in ledger.read(sweep.ledger_file)} & set(keys):
            told = story(runs.trial(key).events)
            noted = origin.at(sweep, told.first_t) if told.trained is not None and told.first_t else None
            if noted is not None and noted.facts["commit"] not in (None, at_hand.commit):
                trained[noted.facts["commit"]].add(key)
    return [
        f"commit {commit[:8]} trained {len(found)} of these trials, and this is {at_hand.commit[:8]}; they are kept"
        " as they are (--fresh trains them again)"
        for commit, found in trained.items()
    ]
