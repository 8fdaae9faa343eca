"""What is shown in the UI comes from anybody's data."""

import pytest

from tasks.telemetry import artifact_key, plain, report_url


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "[click](javascript:alert(1))", "| a | b |\n|---|---|"])
def test_text_from_data_cannot_become_markup(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown
    for character in "<>[]()|":
        assert shown.count(character) == shown.count(f"\\{character}")


def test_a_key_is_one_that_prefect_takes() -> None:
    assert artifact_key("monitor-my_pipeline.2") == "monitor-my-pipeline-2"


def test_a_report_is_found_below_the_report_servers_address() -> None:
    assert report_url("http://127.0.0.1:8181/", "reports/flights/performance.png").endswith(
        ":8181/flights/performance.png"
    )
