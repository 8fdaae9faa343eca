"""The step of `prefect deploy --all` that upserts what `prefect.yaml` cannot say.

pipelines/*.py ─► schedules of the generic deployments; one that is withdrawn goes, one that is paused stays paused
automations/*.yaml ─► automations, by name

Both are read whole before anything is changed: a mistake in one pipeline's file leaves the server as it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import AutomationCore

from flows.settings import ROOT, Settings
from perennial.spec import list_pipelines, load_pipeline

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

AUTOMATIONS = Path(__file__).parent / "automations"
SLUG = "pipeline-"  # marks the schedules that are ours to change

Schedules = dict[str, DeploymentScheduleCreate]


def upsert_schedules_and_automations() -> dict[str, int]:
    """Make the server's schedules and automations what the files say; return how many of each there are."""
    declared = declared_schedules(Settings().pipelines_dir)
    with get_client(sync_client=True) as client:
        deployments = {name: client.read_deployment_by_name(f"{_flow(name)}/{name}") for name in _deployments()}
        unknown = sorted(set(declared) - set(deployments))
        if unknown:
            raise ValueError(f"pipelines schedule the flows {unknown}, which prefect.yaml does not deploy")
        for name, deployment in deployments.items():
            upsert_schedules(client, deployment, declared.get(name, {}))
        automations = upsert_automations(client)
    return {"schedules": sum(map(len, declared.values())), "automations": automations}


def declared_schedules(folder: Path) -> dict[str, Schedules]:
    """Schedules by flow and slug, as the pipelines' files declare them."""
    declared: dict[str, Schedules] = {}
    for name in list_pipelines(folder):
        for schedule in load_pipeline(name, folder).schedules:
            of_flow = declared.setdefault(schedule.flow, {})
            earlier = sum(other.parameters["pipeline"] == name for other in of_flow.values())
            slug = f"{SLUG}{name}-{earlier + 1}"
            of_flow[slug] = DeploymentScheduleCreate(
                schedule=CronSchedule(cron=schedule.cron, timezone="UTC"), parameters={"pipeline": name}, slug=slug
            )
    return declared


def upsert_schedules(client: SyncPrefectClient, deployment: DeploymentResponse, declared: Schedules) -> None:
    """Create, change or delete our schedules of one deployment; what has not changed is not touched."""
    existing = {s.slug: s for s in deployment.schedules if s.slug and s.slug.startswith(SLUG)}
    for slug, schedule in existing.items():
        if slug not in declared:
            client.delete_deployment_schedule(deployment.id, schedule.id)
        elif (schedule.schedule, schedule.parameters) != (declared[slug].schedule, declared[slug].parameters):
            client.update_deployment_schedule(
                deployment.id, schedule.id, schedule=declared[slug].schedule, parameters=declared[slug].parameters
            )
    fresh = [schedule for slug, schedule in declared.items() if slug not in existing]
    if fresh:
        client.create_deployment_schedules(deployment.id, fresh)


def upsert_automations(client: SyncPrefectClient, folder: Path = AUTOMATIONS) -> int:
    """Create or replace the folder's automations by name; return how many apply on this server."""
    specs = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    blocks = {b.name: b.id for b in client.read_block_documents(include_secrets=False) if b.name}
    wanted = [AutomationCore.model_validate(spec) for spec in specs if _fill_blocks(spec, blocks)]
    for automation in wanted:
        same_name = client.read_automations_by_name(automation.name)
        for stale in same_name[1:]:
            client.delete_automation(stale.id)
        if same_name:
            client.update_automation(same_name[0].id, automation)
        else:
            client.create_automation(automation)
    return len(wanted)


def _fill_blocks(spec: dict[str, Any], blocks: dict[str, UUID]) -> bool:
    """Put blocks' ids for their names; false where a block is missing and the automation does not apply here."""
    for action in spec["actions"]:
        name = action.pop("block", None)
        if name is None:
            continue
        if name not in blocks:
            print(f"No notification block {name!r} on this server: left out the automation {spec['name']!r}.")
            return False
        action["block_document_id"] = str(blocks[name])
    return True


def _deployments() -> list[str]:
    """Every deployment of prefect.yaml but the last, which is being deployed as this runs."""
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return [deployment["name"] for deployment in declared[:-1]]


def _flow(name: str) -> str:
    return name.replace("_", "-")  # Prefect names a flow so; the deployment keeps the function's name
