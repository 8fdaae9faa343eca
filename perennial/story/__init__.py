"""The story of a pipeline on one page: what was seen, what was decided and why the version that serves serves."""
