"""Perennial's library: what a pipeline is (`spec`), judgement (`rules`) and memory (`lakehouse`)."""

__version__ = "0.1.0"
