"""Perennial's library: what a pipeline is (`spec`), judgement (`rules`) and memory (`lakehouse`)."""
