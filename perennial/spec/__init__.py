"""What a pipeline is: the words of a file under `pipelines/`, and the loader that refuses mistakes by name and line."""

from perennial.spec.checks import Freshness, NullShare, References, RowCount
from perennial.spec.flatten import Json
from perennial.spec.history import Calendar, History
from perennial.spec.kafka import Kafka
from perennial.spec.load import PipelineError, list_pipelines, load_pipeline
from perennial.spec.models import TabularModel, TorchModel
from perennial.spec.monitoring import Monitoring, Window
from perennial.spec.pipeline import (
    Daily,
    Hourly,
    Pipeline,
    Schedule,
)
from perennial.spec.promotion import Promotion
from perennial.spec.rollout import Rollout
from perennial.spec.serving import Serving
from perennial.spec.sources import AsOf, At, Before, Files, Join, Label, Lookup, Source, UtcMicroseconds
from perennial.spec.upkeep import Upkeep

__all__ = [
    "AsOf",
    "At",
    "Before",
    "Calendar",
    "Daily",
    "Files",
    "Freshness",
    "History",
    "Hourly",
    "Join",
    "Json",
    "Kafka",
    "Label",
    "Lookup",
    "Monitoring",
    "NullShare",
    "Pipeline",
    "PipelineError",
    "Promotion",
    "References",
    "Rollout",
    "RowCount",
    "Schedule",
    "Serving",
    "Source",
    "TabularModel",
    "TorchModel",
    "Upkeep",
    "UtcMicroseconds",
    "Window",
    "list_pipelines",
    "load_pipeline",
]
