"""Put a pipeline's feature page where people open it."""

from perennial.datadocs.features import Champion, FeatureFigures, features_page, features_path
from perennial.datadocs.publish_card import read_figures
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.stages import champion_stage


def publish_features(lake: Lake, figures: FeatureFigures) -> Champion | None:
    """Write the page; return who serves, with the importance of its inputs as its card has it."""
    champion = read_champion(lake, figures.pipeline)
    page = features_page(figures, lake.environment, champion)
    lake.files().pipe_file(lake.uri(features_path(figures.pipeline)), page.encode())
    return champion


def read_champion(lake: Lake, pipeline: str) -> Champion | None:
    """The version that serves; None where none does."""
    stage = champion_stage(lake, pipeline)
    if stage is None:
        return None
    card = read_figures(lake, pipeline, stage.version)
    if card is None:
        return Champion(stage.version, [], "its model card is not made yet")
    return Champion(stage.version, card.importance, f"{card.importance_rows:,} of the {card.source}")
