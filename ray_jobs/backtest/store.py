"""What was found out, kept on S3 under its key: a backtest that was stopped goes on, one that is asked again answers."""

import io
import json

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.rules.contest import PromotionVerdict
from perennial.rules.evidence import Evidence
from perennial.rules.replay import Trained, Work

RESULTS: dict[str, type[BaseModel]] = {"train": Trained, "look": Evidence, "judge": PromotionVerdict}


class Store(BaseModel, frozen=True):
    """One folder of JSON and Parquet. `folder` names the data and the code that results depend on."""

    lake: Lake
    folder: str

    def find(self, work: Work) -> BaseModel | None:
        """The result of some work, or None."""
        try:
            data = self.lake.files().cat_file(self._path(work.key, "json"))
        except FileNotFoundError:
            return None
        return RESULTS[work.kind].model_validate(json.loads(data))

    def keep(self, work: Work, result: BaseModel, frames: dict[str, pl.DataFrame] | None = None) -> None:
        """Frames first, the result last: what can be found is complete."""
        for name, frame in (frames or {}).items():
            data = io.BytesIO()
            frame.write_parquet(data)
            self.lake.files().pipe_file(self._path(f"{work.key}.{name}", "parquet"), data.getvalue())
        self.lake.files().pipe_file(self._path(work.key, "json"), result.model_dump_json().encode())

    def frame(self, key: str, name: str) -> pl.DataFrame:
        """A frame that was kept beside a result."""
        return pl.read_parquet(io.BytesIO(self.lake.files().cat_file(self._path(f"{key}.{name}", "parquet"))))

    def _path(self, key: str, ending: str) -> str:
        return self.lake.uri(f"{self.folder}/{key}.{ending}")
