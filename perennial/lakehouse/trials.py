"""Who gets which part of a pipeline's traffic: rows of the registry that every replica reads, in any cluster.

A trial is one attempt to put a challenger in the champion's place: `challenger` (opened, no traffic), `shadow` (requests
are mirrored), `canary` (a share of them is answered), and then either the champion's next generation or `rejected`. At most
one is open in a pipeline, and it is about one generation: when the champion changes, whatever was tried against it is over.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import Stage, StageConflict, make_champion, read_stages, record_stage

Diverted = Literal["challenger", "shadow", "canary"]
_ENDED = ("rejected", "archived")


class RolloutRefused(StageConflict):
    """Another version is being rolled out. Nothing was changed by this one."""


class Trial(BaseModel, frozen=True):
    """Where an open trial stands.

    Args:
        rollout: its id, the same for every run that drives it and for the decision it ends in.
        generation: of the champion that it is tried against.
        share: of the requests that the challenger answers, in [0, 1]; 0 while it answers none.
        since: when this step was recorded; `opened`: when the trial was.
    """

    pipeline: str
    version: int
    rollout: str
    generation: int
    stage: Diverted
    share: float
    since: datetime
    opened: datetime

    @property
    def turn(self) -> str:
        """Names this trial at this step; a replica says which one it follows."""
        return f"{self.rollout}/{self.stage}/{self.share:g}"


class Traffic(BaseModel, frozen=True):
    """Who serves, and who is tried beside it."""

    champion: Stage | None
    trial: Trial | None


def read_traffic(lake: Lake, pipeline: str) -> Traffic:
    """How the pipeline's requests are to be shared now."""
    return traffic_of(read_stages(lake, pipeline))


def traffic_of(history: list[Stage]) -> Traffic:
    """How requests are shared after this history of one pipeline."""
    champion = max((s for s in history if s.stage == "champion"), key=lambda step: step.generation, default=None)
    generation = champion.generation if champion else 0
    steps = [step for step in history if step.share is not None and step.generation == generation]
    ended = {step.decision_id for step in steps if step.stage in _ENDED}
    return Traffic(champion=champion, trial=_furthest([step for step in steps if step.decision_id not in ended]))


def open_trial(lake: Lake, pipeline: str, version: int, *, as_of: datetime, reason: str) -> Trial:
    """Open a trial of a version against the champion, or find the open one of this version.

    Raises:
        RolloutRefused: another version's is open, or another run was faster.
    """
    history = read_stages(lake, pipeline)
    standing = _own(history, version)
    if standing:
        return standing
    generation = champion.generation if (champion := traffic_of(history).champion) else 0
    earlier = {s.decision_id for s in history if s.share is not None and s.version == version}
    attempt = 1 + sum(name.startswith(f"{rollout_id(pipeline, version, generation + 1)}-try") for name in earlier)
    rollout = f"{rollout_id(pipeline, version, generation + 1)}-try{attempt}"

    def nobody_else(newest: list[Stage]) -> None:
        _own(newest, version)
        now = traffic_of(newest).champion
        if (now.generation if now else 0) != generation:
            raise RolloutRefused(
                f"version {version} of {pipeline} was to be tried against champion generation {generation}, and another "
                "version has become champion meanwhile. Nothing was changed. Decide again."
            )

    record_stage(
        lake, pipeline, version, "challenger", as_of=as_of, reason=reason, decision_id=rollout, share=0.0,
        expect=nobody_else,
    )  # fmt: skip
    opened = _own(read_stages(lake, pipeline), version)
    if opened is None:
        raise RolloutRefused(f"the roll-out of version {version} of {pipeline} was ended as soon as it was opened.")
    return opened


def divert(lake: Lake, trial: Trial, stage: Diverted, share: float, *, as_of: datetime, reason: str) -> Trial:
    """Take an open trial to its next step; a step that was taken before is taken once.

    Raises:
        RolloutRefused: the trial is not open any more.
    """
    recorded = record_stage(
        lake, trial.pipeline, trial.version, stage, as_of=as_of, reason=reason, decision_id=trial.rollout, share=share,
        expect=lambda newest: _still_open(newest, trial),
    )  # fmt: skip
    _still_open(read_stages(lake, trial.pipeline), trial)
    return trial.model_copy(update={"stage": stage, "share": share, "since": recorded.recorded_at})


def win_trial(lake: Lake, trial: Trial, *, as_of: datetime, reason: str) -> Stage:
    """Make the version that was tried champion; one that has become it by this very trial is left as it is.

    Raises:
        RolloutRefused: the trial has ended otherwise, and nothing was changed: who withdrew it meant it.
    """
    return make_champion(
        lake, trial.pipeline, trial.version, expected_generation=trial.generation, as_of=as_of, reason=reason,
        decision_id=trial.rollout, expect=lambda newest: _still_open(newest, trial),
    )  # fmt: skip


def end_trial(lake: Lake, trial: Trial, *, as_of: datetime, reason: str) -> None:
    """Give the champion all requests again; one that has ended already, however it did, is left as it is."""
    try:
        _still_open(read_stages(lake, trial.pipeline), trial)
        record_stage(
            lake, trial.pipeline, trial.version, "rejected", as_of=as_of, reason=reason, decision_id=trial.rollout,
            share=0.0, expect=lambda newest: _still_open(newest, trial),
        )  # fmt: skip
    except RolloutRefused:
        return


def rollout_id(pipeline: str, version: int, generation: int) -> str:
    """Of the roll-out by which a version takes, or would take, a generation."""
    return f"{pipeline}-v{version}-g{generation}"


def _own(history: list[Stage], version: int) -> Trial | None:
    trial = traffic_of(history).trial
    if trial is None or trial.version == version:
        return trial
    raise RolloutRefused(
        f"version {trial.version} of {trial.pipeline} is being rolled out ({trial.stage}, share {trial.share:g}, since "
        f"{trial.since:%Y-%m-%d %H:%M:%S} UTC), so version {version} is not. Nothing was changed. Wait for it; where its "
        f"flow is gone, start it again with `make run FLOW=roll_out PIPELINE={trial.pipeline} VERSION={trial.version}`, "
        f"or end it with `make run FLOW=roll_back PIPELINE={trial.pipeline}`."
    )


def _furthest(steps: list[Stage]) -> Trial | None:
    """The step that the open trial has come to; steps of one trial only go forward, whoever's clock is behind."""
    order = ("challenger", "shadow", "canary")
    steps = [step for step in steps if step.stage in order]
    step = max(steps, key=lambda step: (order.index(step.stage), step.share or 0.0), default=None)
    if step is None:
        return None
    return Trial(
        pipeline=step.pipeline,
        version=step.version,
        rollout=step.decision_id,
        generation=step.generation,
        stage=step.stage,
        share=step.share or 0.0,
        since=step.recorded_at,
        opened=min(step.recorded_at for step in steps),
    )


def _still_open(history: list[Stage], trial: Trial) -> None:
    standing = traffic_of(history).trial
    if standing is None or standing.rollout != trial.rollout:
        raise RolloutRefused(
            f"the roll-out {trial.rollout} has ended: {_ended_by(history, trial)}. Nothing was changed by this run."
        )


def _ended_by(history: list[Stage], trial: Trial) -> str:
    champion = traffic_of(history).champion
    if champion and champion.generation != trial.generation:
        return f"version {champion.version} has become champion (generation {champion.generation}): {champion.reason}"
    return next((s.reason for s in history if s.decision_id == trial.rollout and s.stage in _ENDED), "it was closed")
