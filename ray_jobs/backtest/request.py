"""What is asked of a backtest."""

from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.rules.replay import Span, Strategy


class BacktestRequest(BaseModel, frozen=True):
    """Which history to replay under which policies.

    Args:
        snapshot_id: of the features; its rows carry what each could be predicted from.
        windows: what is judged after what, in order.
        bootstrap: the first model is trained with the knowledge of this moment.
        lag: how long after a window's end it is judged.
        as_of: labels known by then count in the account; decisions see only those of their own moments.
        threads: of one training.
        at_once: trainings and looks side by side.
    """

    lake: Lake
    pipelines: Path
    pipeline: str
    snapshot_id: int
    windows: list[Span]
    bootstrap: datetime
    lag: timedelta
    as_of: datetime
    strategies: list[Strategy]
    threads: int = 1
    at_once: int = 2
