"""What is done about a row or a batch that breaks a rule."""

from typing import Literal

Severity = Literal["quarantine", "block", "warn"]
"""`quarantine`: the row is kept apart; `block`: its whole batch is refused; `warn`: it is published, and counted."""
