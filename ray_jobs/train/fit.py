"""The training loop: matrices in, best weights out. Knows neither Ray nor storage; checkpoints go through a callback.

The same matrices, seed and thread count give the same weights, bitwise on a CPU, whether or not it was interrupted:
everything random is drawn anew from the seed and the epoch's number.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from perennial.rules.metrics import roc_auc, roc_auc_error
from perennial.rules.network import TabularNet
from perennial.spec.pipeline import TabularModel

Weights = dict[str, Tensor]
FEWEST_STEPS = 300
MOST_ROWS = 1_200_000  # passes times rows: on a year of flights four epochs rank as well as six
MOST_EPOCHS = 40
TOLERATED_ERRORS = 2.0


@dataclass(frozen=True)
class Batch:
    """Rows ready for the network: float32 (n, numbers), int64 (n, categories), float32 (n,)."""

    numbers: Tensor
    categories: Tensor
    target: Tensor

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.target)

    def at(self, index: Tensor) -> "Batch":
        """The rows at these positions."""
        return Batch(self.numbers[index], self.categories[index], self.target[index])


class FitOptions(BaseModel, frozen=True):
    """How to train; every value that the weights depend on, beside the rows."""

    task: Literal["binary", "regression"]
    epochs: int
    batch_rows: int
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int

    @classmethod
    def of(cls, model: TabularModel, rows: int) -> "FitOptions":
        """The options for this many training rows: small tables get small steps and enough of them, large ones a cap."""
        batch_rows = max(16, min(model.batch_rows, rows // 64))
        steps = max(1, math.ceil(rows / batch_rows))
        epochs = max(min(model.epochs, max(2, MOST_ROWS // rows)), min(MOST_EPOCHS, math.ceil(FEWEST_STEPS / steps)))
        return cls(
            task=model.task,
            epochs=epochs,
            batch_rows=batch_rows,
            learning_rate=model.learning_rate,
            weight_decay=model.weight_decay,
            patience=max(3, epochs // 2),
            seed=model.seed,
        )


@dataclass
class FitState:
    """Where training stands after an epoch: enough to go on from, bit for bit.

    Args:
        weights: after the epoch; `kept_weights`: those to use, of `kept_epoch`.
        moments: the optimiser's.
        bound: the lowest miss so far plus two of its standard errors.
        curve: what every epoch told: `epoch`, `training_loss`, `validation_loss`, `validation_miss`.
    """

    epoch: int = 0
    weights: Weights = field(default_factory=dict)
    moments: Weights = field(default_factory=dict)
    kept_weights: Weights = field(default_factory=dict)
    kept_epoch: int = 0
    bound: float = math.inf
    curve: list[dict[str, float]] = field(default_factory=list)

    def finished(self, options: FitOptions) -> bool:
        """Whether nothing is left to train."""
        return self.epoch >= options.epochs or self.epoch - self.kept_epoch >= options.patience


@dataclass(frozen=True)
class EpochReport:
    """What is told of an epoch. Losses are log loss, or squared error of the scaled target; `miss` is what stops it."""

    epoch: int
    epochs: int
    training_loss: float
    validation_loss: float
    validation_miss: float
    seconds: float

    @property
    def point(self) -> dict[str, float]:
        """This epoch's point of the training curve."""
        return {
            "epoch": self.epoch,
            "training_loss": self.training_loss,
            "validation_loss": self.validation_loss,
            "validation_miss": self.validation_miss,
        }

    @property
    def line(self) -> str:
        """One readable line, with the time left at most."""
        left = self.seconds * (self.epochs - self.epoch)
        return (
            f"epoch {self.epoch}/{self.epochs}: training loss {self.training_loss:.4f}, "
            f"validation loss {self.validation_loss:.4f}, miss {self.validation_miss:.4f}, {self.seconds:.1f} s, "
            f"at most {left:.0f} s left"
        )


def fit(
    net: TabularNet,
    training: Batch,
    validation: Batch,
    options: FitOptions,
    *,
    state: FitState | None = None,
    after_epoch: Callable[[FitState, EpochReport], None] = lambda state, report: None,
) -> FitState:
    """Train until the epochs are over or the validation rows are told worse; `kept_weights` are those to use.

    *Worse* is a miss (1 - ROC AUC, or the squared error) more than two standard errors above the lowest: the newest
    tenth of the rows is another season than those before, and its plain minimum stopped flights after one epoch of
    six (mean ROC AUC of the months after 0.672 instead of 0.696). Log loss is worse still: it scores the shifting level.

    Args:
        state: where a former run stopped.
        after_epoch: called with the state to keep and what to tell.
    """
    state = state or FitState()
    optimiser = _optimiser(net, options)
    if state.epoch:
        net.load_state_dict(state.weights)
        _load_moments(optimiser, state.moments)
    while not state.finished(options):
        started = time.perf_counter()
        training_loss = _train_epoch(net, optimiser, training, options, state.epoch)
        validation_loss, miss, error = judge(net, validation if validation.rows else training, options.task)
        state.epoch += 1
        state.weights = _copy(net.state_dict())
        state.moments = _save_moments(optimiser)
        state.bound = min(state.bound, miss + TOLERATED_ERRORS * error)
        if miss <= state.bound or not state.kept_weights:
            state.kept_epoch, state.kept_weights = state.epoch, state.weights
        seconds = time.perf_counter() - started
        report = EpochReport(state.epoch, options.epochs, training_loss, validation_loss, miss, seconds)
        state.curve = [*state.curve, report.point]
        after_epoch(state, report)
    return state


def _train_epoch(
    net: TabularNet, optimiser: torch.optim.Optimizer, rows: Batch, options: FitOptions, epoch: int
) -> float:
    torch.manual_seed(options.seed * 100_003 + epoch)
    net.train()
    order = torch.randperm(rows.rows)
    steps = math.ceil(rows.rows / options.batch_rows)
    total = 0.0
    for step in range(steps):
        batch = rows.at(order[step * options.batch_rows : (step + 1) * options.batch_rows])
        rate = options.learning_rate * one_cycle(epoch * steps + step, options.epochs * steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = _losses(net(batch.numbers, batch.categories), batch.target, options.task).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        total += loss.item() * batch.rows
    return total / rows.rows


def judge(net: TabularNet, rows: Batch, task: str, batch_rows: int = 16_384) -> tuple[float, float, float]:
    """Loss, miss and the miss's standard error over rows, without dropout. With one class only the miss is the loss."""
    net.eval()
    with torch.inference_mode():
        parts = [rows.at(torch.arange(s, min(s + batch_rows, rows.rows))) for s in range(0, rows.rows, batch_rows)]
        output = torch.cat([net(part.numbers, part.categories) for part in parts])
        losses = _losses(output, rows.target, task)
    loss, error = losses.mean().item(), losses.std(correction=0).item() / math.sqrt(rows.rows)
    auc = roc_auc(rows.target.numpy(), output.numpy()) if task == "binary" else math.nan
    if math.isnan(auc):
        return loss, loss, error
    positives = rows.target.sum().item()
    return loss, 1.0 - auc, roc_auc_error(auc, positives, rows.rows - positives)


def one_cycle(step: int, steps: int, warm_share: float = 0.2) -> float:
    """Share of the peak learning rate at a step: up in a straight line, down along a cosine, to a hundredth."""
    done = step / max(1, steps)
    if done < warm_share:
        return 0.05 + 0.95 * done / warm_share
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm_share) / (1 - warm_share)))


def _losses(output: Tensor, target: Tensor, task: str) -> Tensor:
    if task == "binary":
        return nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return (output - target) ** 2


def _optimiser(net: TabularNet, options: FitOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        net.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99), fused=True
    )


def _copy(weights: Weights) -> Weights:
    return {name: value.detach().clone() for name, value in weights.items()}


def _save_moments(optimiser: torch.optim.Optimizer) -> Weights:
    # Flat names and tensors only: this is stored as safetensors, never pickled.
    return {
        f"{number}.{name}": value.detach().clone()
        for number, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }


def _load_moments(optimiser: torch.optim.Optimizer, moments: Weights) -> None:
    state: dict[int, Weights] = {}
    for name, value in moments.items():
        number, _, kind = name.partition(".")
        state.setdefault(int(number), {})[kind] = value.clone()
    current = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": current["param_groups"]})
