"""`python -m deployments.land FILE TO`: put a file where a source looks, `landing/<TO>` of the environment."""

import sys
from pathlib import Path

from flows.settings import Settings


def main(file: str, to: str) -> int:
    """Return the exit status."""
    path = Path(file)
    if not path.is_file() or not to:
        print(
            f"There is no file {file!r}. Usage: make land FILE=sales.csv TO=houses/sales.csv"
            if to
            else "Say where it goes, as the source's pattern in the pipeline's file: TO=houses/sales.csv",
            file=sys.stderr,
        )
        return 1
    lake = Settings().lake
    lake.files().put_file(str(path), lake.uri(f"landing/{to}"))
    print(f"{path} landed as {lake.uri(f'landing/{to}')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*[*sys.argv[1:], "", ""][:2]))
