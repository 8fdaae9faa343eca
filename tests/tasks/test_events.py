"""The page about events and the models of their payloads say the same."""

import re

from flows.settings import ROOT
from tasks.events import EVENTS, Event

COMMON = set(Event.model_fields)


def test_the_page_lists_every_event_with_its_payload() -> None:
    told = {}
    for line in (ROOT / "docs" / "events.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[1].startswith("`perennial."):
            fields = re.findall(r"`([a-z_]+)`", cells[3])
            told[cells[1].strip("`")] = (set(fields), cells[4] == "yes")
    assert told == {event.name: (set(event.model_fields) - COMMON, event.pages) for event in EVENTS}
