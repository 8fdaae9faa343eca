"""What a replica serves, kept in step with the registry: the new is loaded beside the old, tried, then swapped in.

A replica knows no version of its own. The registry says who is champion, who is tried beside it and for which share of the
requests, and the lake how far the joined tables are; a roll-out is rows in the registry, and a server that starts anew
comes back with the same versions and shares.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_log
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.scorers import load_scorer
from perennial.lakehouse.stages import Stage
from perennial.lakehouse.tables import current_snapshot_id
from perennial.lakehouse.trials import Trial, read_traffic
from perennial.rules.held import Held, hold
from perennial.rules.joins import MOMENT
from perennial.rules.scoring import Scorer
from perennial.rules.sticky import takes_part
from perennial.spec import Pipeline

logger = logging.getLogger("ray.serve")


class NothingToServe(RuntimeError):
    """The pipeline has no champion, so no replica of its endpoint can become ready."""


class WrongCode(RuntimeError):
    """The champion was trained with other feature code than this replica runs."""


@dataclass(frozen=True)
class Loaded:
    """A table as of one snapshot of it, ready to be asked by key.

    Args:
        known_at: the moments at which its rows became known, rising; `rows`: how many versions it has.
    """

    held: Held
    rows: int
    snapshot_id: int
    loaded_at: datetime
    known_at: pl.Series

    def age(self, now: datetime) -> timedelta | None:
        """How long ago the newest of its rows became known; of rows known ahead, those of which it was time. None: no row."""
        number = int(self.known_at.search_sorted(now, "right"))
        newest = self.known_at[number - 1] if number else None
        return None if newest is None else now - newest


@dataclass(frozen=True)
class Serving:
    """Everything an answer is made of. Never changed: a request sees one version and one set of tables."""

    stage: Stage
    version: ModelVersion
    scorer: Scorer
    tables: Mapping[str, Loaded]

    @property
    def snapshots(self) -> dict[str, int]:
        """The snapshot of each joined table."""
        return {name: held.snapshot_id for name, held in self.tables.items()}


@dataclass(frozen=True)
class Challenger:
    """A version that is tried beside the champion."""

    trial: Trial
    serving: Serving


@dataclass(frozen=True)
class Traffic:
    """Who answers. Never changed: a request sees one of these from its beginning to its end."""

    champion: Serving
    challenger: Challenger | None = None

    @property
    def mirrored(self) -> bool:
        """Whether the challenger scores what the champion answers, unheard."""
        return self.challenger is not None and self.challenger.trial.stage == "shadow"

    def choose(self, key: str) -> tuple[Serving, str]:
        """Who answers the requests of this key, and in which role: the same one at every replica, while shares grow."""
        tried = self.challenger
        if tried and tried.trial.stage == "canary" and takes_part(key, tried.trial.rollout, tried.trial.share):
            return tried.serving, "canary"
        return self.champion, "champion"


class ReplicaState(BaseModel, frozen=True):
    """What a replica says of itself.

    Args:
        pid: of its process.
        deployed_as: fingerprint of the code and settings it was deployed with.
        refused_generation: the newest generation it could not load; it goes on with the one it has.
        turn: the step of the trial that it follows; None: all requests are the champion's.
        refused_rollout: the trial whose challenger it could not load.
        problem: why, or what its last look at the lake met.
    """

    replica: str
    pid: int
    version: int
    generation: int
    deployed_as: str
    tables: dict[str, int]
    refused_generation: int | None = None
    turn: str | None = None
    refused_rollout: str | None = None
    problem: str | None = None


class Keeper:
    """Holds what a replica serves. `refresh` is safe from any thread; readers take `traffic` once per request.

    Args:
        try_out: raises for what is not fit to serve; called before anything is swapped in.
    """

    def __init__(self, lake: Lake, pipeline: Pipeline, code_hash: str, try_out: Callable[[Serving], None]) -> None:
        self._lake, self._pipeline, self._code_hash, self._try_out = lake, pipeline, code_hash, try_out
        self._loading = threading.Lock()
        self._stages_seen: int | None = None
        self.refused_generation: int | None = None
        self.refused_rollout: str | None = None
        self.problem: str | None = None
        self.refreshed_at = datetime.now(UTC)
        stage = read_traffic(lake, pipeline.name).champion
        if stage is None:
            raise NothingToServe(
                f"pipeline {pipeline.name} has no champion, so its endpoint cannot start. Train and promote a version, "
                "then roll it out."
            )
        self.traffic = Traffic(self._load(stage, load_tables(self._lake, self._pipeline, {})))
        self.refresh()  # a trial that is under way goes on with this replica, too

    @property
    def current(self) -> Serving:
        """The champion as it is loaded."""
        return self.traffic.champion

    @property
    def versions(self) -> list[int]:
        """The versions that this replica can answer with, the champion first."""
        return [held.version.version for held in self._loaded()]

    def loaded(self, version: int) -> Serving | None:
        """A version that this replica can answer with now; None: it does not serve here."""
        return next((held for held in self._loaded() if held.version.version == version), None)

    def refresh(self) -> None:
        """Look at the registry and the joined tables; swap in what is new. What cannot be loaded leaves the old one.

        Raises nothing: the replica goes on answering, and `problem` says what is wrong.
        """
        with self._loading:
            try:
                self._refresh()
            except Exception as error:
                # Whatever it was (S3 away, a broken artifact, other code), the version that serves must go on serving.
                self.problem = f"{type(error).__name__}: {error}"
                logger.warning(
                    "%s goes on serving version %d: %s", self._pipeline.name, self.current.version.version, error
                )
            self.refreshed_at = datetime.now(UTC)

    def state(self, replica: str, deployed_as: str) -> ReplicaState:
        """What this replica serves."""
        serving = self.current
        return ReplicaState(
            replica=replica,
            pid=os.getpid(),
            version=serving.version.version,
            generation=serving.stage.generation,
            deployed_as=deployed_as,
            tables=serving.snapshots,
            refused_generation=self.refused_generation,
            turn=self.traffic.challenger.trial.turn if self.traffic.challenger else None,
            refused_rollout=self.refused_rollout,
            problem=self.problem,
        )

    def _refresh(self) -> None:
        tables = load_tables(self._lake, self._pipeline, self.current.tables)
        if tables is not self.current.tables:
            newer = self._with_tables(tables)
            self._try_out(newer.champion)
            self.traffic = newer
        stages = current_snapshot_id(self._lake, self._lake.system("stages"))
        if stages == self._stages_seen and self.refused_generation is None and self.refused_rollout is None:
            self.problem = None
            return
        wanted = read_traffic(self._lake, self._pipeline.name)
        if wanted.champion is not None and wanted.champion.generation != self.current.stage.generation:
            self.refused_generation = wanted.champion.generation  # until it is loaded
            # The trial was about the former champion; if it ends in this swap, its model is loaded already.
            self.traffic = Traffic(self._load(wanted.champion, tables))
        self.refused_generation = None
        self._follow(wanted.trial, tables)
        self.problem, self._stages_seen = None, stages

    def _follow(self, trial: Trial | None, tables: Mapping[str, Loaded]) -> None:
        """Share the requests as the registry says. A challenger that cannot be loaded gets none."""
        if trial is None or trial.stage == "challenger":
            self.traffic, self.refused_rollout = Traffic(self.current), None
            return
        self.refused_rollout = trial.rollout  # until it is loaded
        stage = self.current.stage.model_copy(update={"version": trial.version})
        self.traffic = Traffic(self.current, Challenger(trial, self._load(stage, tables)))
        self.refused_rollout = None

    def _with_tables(self, tables: Mapping[str, Loaded]) -> Traffic:
        champion, tried = replace(self.current, tables=tables), self.traffic.challenger
        return Traffic(champion, tried and replace(tried, serving=replace(tried.serving, tables=tables)))

    def _load(self, stage: Stage, tables: Mapping[str, Loaded]) -> Serving:
        for held in self._loaded():
            if held.version.version == stage.version:
                return replace(held, stage=stage, tables=tables)
        version = read_version(self._lake, self._pipeline.name, stage.version)
        if version.feature_code_hash != self._code_hash:
            raise WrongCode(
                f"version {version.version} of {version.pipeline} was trained with feature code "
                f"{version.feature_code_hash}, and this replica runs {self._code_hash}: its features would not be "
                f"those it learned from. It is not served. Check out the revision of pipelines/{version.pipeline}.py "
                "that it was trained with and roll it out again, or train a new version with today's code."
            )
        scorer = load_scorer(
            self._lake, version.pipeline, version.artifact_id, version.manifest_sha256, self._pipeline.model
        )
        serving = Serving(stage, version, scorer, tables)
        self._try_out(serving)
        return serving

    def _loaded(self) -> list[Serving]:
        traffic = getattr(self, "traffic", None)
        if traffic is None:
            return []
        return [traffic.champion, *([traffic.challenger.serving] if traffic.challenger else [])]


def load_tables(lake: Lake, pipeline: Pipeline, held: Mapping[str, Loaded]) -> Mapping[str, Loaded]:
    """The joined tables at their current snapshots; the same object where nothing is new.

    Raises:
        NothingToServe: nothing of a joined source was ever ingested.
    """
    newer: dict[str, Loaded] = {}
    for name in pipeline.looked_up:
        identifier = lake.table(pipeline.name, f"raw_{name}")
        snapshot_id = current_snapshot_id(lake, identifier)
        if snapshot_id is None:
            raise NothingToServe(
                f"source {name!r} of pipeline {pipeline.name} is looked up, and nothing of it was ever ingested. "
                "Run ingest for it."
            )
        if name not in held or held[name].snapshot_id != snapshot_id:
            rows = read_log(lake, pipeline, name, None, snapshot_id)
            known = rows[MOMENT].drop_nulls().unique().sort()
            newer[name] = Loaded(hold(pipeline, name, rows), rows.height, snapshot_id, datetime.now(UTC), known)
    return {**held, **newer} if newer else held
