"""`python -m deployments.endpoints`: after the stack was down, let every champion serve again, through `roll_out`."""

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from flows.settings import Settings
from perennial.lakehouse.stages import champion_stage

SECONDS = 180


def main() -> int:
    """Return the exit status: 1 where a champion does not serve; each has its line."""
    settings = Settings()
    names = sorted(path.stem for path in Path(settings.pipelines_dir).glob("*.py"))
    stages = [stage for name in names if (stage := champion_stage(settings.lake, name))]
    waiting = [stage for stage in stages if not _answers(f"{settings.serve.url}/v2/models/{stage.pipeline}/ready")]
    return max((_bring_back(stage.pipeline, stage.version) for stage in waiting), default=0)


def _bring_back(pipeline: str, version: int) -> int:
    again = f"make run FLOW=roll_out PIPELINE={pipeline} VERSION={version}"
    started = time.monotonic()
    try:
        run = run_deployment(
            "roll-out/roll_out", parameters={"pipeline": pipeline, "version": version}, timeout=SECONDS
        )
    except ObjectNotFound:
        print(f"{pipeline} does not serve: nothing is deployed. Run `make deploy`, then `{again}`.", file=sys.stderr)
        return 1
    assert isinstance(run, FlowRun)  # prefect's type also names the coroutine it returns to asynchronous callers
    if run.state is None or not run.state.is_completed():
        print(f"{pipeline} does not serve version {version}: {run.state}. Try `{again}`.", file=sys.stderr)
        return 1
    print(f"  {pipeline}  serves version {version} again  {time.monotonic() - started:.1f} s")
    return 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the endpoint's own address
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code == 401  # it is there, and asks for a token
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
