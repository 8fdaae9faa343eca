"""`python -m deployments.tokens`: the endpoint's clients. Add one or a further token, list them, take tokens away."""

import argparse
import sys
from datetime import UTC, datetime

from flows.settings import Settings
from ray_jobs.serve.clients import ClientMistake, add_token, read_book, revoke


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 1 where what was asked cannot be done."""
    parser = argparse.ArgumentParser(prog="tokens", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="print a new token of a client; it is shown once")
    add.add_argument("client")
    add.add_argument("--rate", type=float, help="requests a second that each replica admits of it")
    commands.add_parser("list", help="clients, their tokens' ids and ages")
    away = commands.add_parser("revoke", help="take all tokens of a client away, or one")
    away.add_argument("client")
    away.add_argument("--token", help="the token's id, as listed")
    asked = parser.parse_args(arguments)
    folder = Settings().secrets
    try:
        if asked.command == "add":
            if asked.rate is not None and not asked.rate > 0:
                raise ClientMistake(f"--rate is requests a second, above 0; got {asked.rate}.")
            print(add_token(folder, asked.client, datetime.now(UTC), asked.rate))
        elif asked.command == "revoke":
            print(f"{revoke(folder, asked.client, asked.token)} tokens of {asked.client} no longer work")
        else:
            for name, client in sorted(read_book(folder).clients.items()):
                rate = f"{client.requests_per_second:g} requests/s" if client.requests_per_second else "no limit"
                for token in client.tokens:
                    print(f"{name:24} {token.token_id}  since {token.created_at:%Y-%m-%d %H:%M} UTC  {rate}")
    except ClientMistake as mistake:
        print(mistake, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
