"""The local stack: S3, reports, Prefect, a worker and a Ray head on this machine, on loopback.

up ─► look (what is ours, what is taken) ─► start in parallel ─► wait until each does its work ─► one line per part
down ─► the worker, then the rest: exactly the processes that carry our mark, and no others

`python -m deployments.stack up|down|status`, or `run <command>` for a command that talks to the stack.
"""
