"""Watching a window of predictions through one Evidently run, and comparing what was served with a version."""
