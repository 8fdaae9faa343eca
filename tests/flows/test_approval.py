"""The form in Prefect's UI against a real server: answered yes, answered no, not answered; the run goes on after each."""

import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType

from perennial.rules.contest import PromotionVerdict
from tasks.approval import Approval, ask_for_approval

PASSED = PromotionVerdict(verdict="promote", answer="better", reason="gain of 0.02", evidence={"gain": 0.02})


@task
def afterwards(verdict: PromotionVerdict) -> PromotionVerdict:
    """A task that runs once the pause is over: it is the flow that stood still, not its end."""
    return verdict


@flow
def asks(seconds: float) -> PromotionVerdict:
    return afterwards(ask_for_approval(PASSED, "rides", 2, timedelta(seconds=seconds)))


@flow
def asks_below(seconds: float) -> PromotionVerdict:
    return asks(seconds)  # as promote in retrain


def answered(answer: dict[str, Any], run: Callable[[float], PromotionVerdict] = asks) -> PromotionVerdict:
    with ThreadPoolExecutor(1) as pool, get_client(sync_client=True) as client:
        running = pool.submit(contextvars.copy_context().run, run, 60.0)
        client.resume_flow_run(paused_run(client, running), run_input=answer)
        return running.result(timeout=60)


def paused_run(client: SyncPrefectClient, running: "Future[PromotionVerdict]") -> Any:
    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert not running.done(), running.result()
        found = client.read_flow_runs(flow_run_filter=paused)
        if found and client.read_flow_run(found[0].id).state:
            time.sleep(0.5)  # the form is saved right after the pause
            return found[0].id
        time.sleep(0.1)
    raise AssertionError("no run was paused")


@pytest.mark.parametrize("run", [asks, asks_below])
def test_a_yes_promotes_and_says_whose_it_was(prefect_server: None, run: Callable[[float], PromotionVerdict]) -> None:
    found = answered({"approve": True, "by": "Ada", "comment": "looks right"}, run)
    assert (found.verdict, found.answer) == ("promote", "approved")
    assert found.reason == "gain of 0.02; approved by Ada (looks right)"
    assert found.evidence == {
        "gain": 0.02, "gates": "better", "approval": "approved", "approved_by": "Ada", "comment": "looks right",
    }  # fmt: skip


def test_a_no_is_a_rejection(prefect_server: None) -> None:
    found = answered({"approve": False, "by": "Ada"})
    assert (found.verdict, found.answer) == ("reject", "declined")
    assert found.reason == "declined by Ada; gain of 0.02"


def test_no_answer_in_time_is_a_rejection_and_the_run_goes_on(prefect_server: None) -> None:
    state = asks(2.0, return_state=True)
    assert state.is_completed()
    found = state.result()
    assert (found.verdict, found.answer) == ("reject", "not_answered")
    assert "nobody approved it within 0:00:02" in found.reason


def test_an_answer_without_a_name_is_none() -> None:
    with pytest.raises(ValueError, match="by"):
        Approval(approve=True, by="")
