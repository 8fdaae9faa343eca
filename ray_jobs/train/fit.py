"""The training loop: matrices in, best weights out. Knows neither Ray nor storage; checkpoints go through a callback.

The same matrices, seed and thread count give the same weights, bitwise on a CPU, whether or not it was interrupted:
everything random is drawn anew from the seed and the epoch's number.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from perennial.rules.description import Task
from perennial.spec.models import TabularModel, TorchModel
from ray_jobs.train.objective import Batch, Loss, judge, row_losses, weighted_mean

Weights = dict[str, Tensor]
Figures = tuple[float, float, float]
USUAL_ROWS = 80_000  # of which the model's `epochs` speaks; smaller tables are passed over more often
MOST_ROWS = 1_200_000  # passes times rows
MOST_EPOCHS = 60
SMALLEST_BATCH = 32
TOLERATED_ERRORS = 2.0
GATHERED_STEPS = 64  # of shuffled rows copied at once: their batches are then slices
UNDECAYED = ("bias", "scale")


class FitOptions(BaseModel, frozen=True):
    """How to train; every value that the weights depend on, beside the rows and the number of workers.

    Args:
        batch_rows: rows of a step, over all workers.
        weighted: whether rows have weights of their own.
    """

    task: Task
    epochs: int
    batch_rows: int
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int
    weighted: bool = False

    @classmethod
    def of(cls, model: TabularModel | TorchModel, rows: int, *, weighted: bool = False) -> "FitOptions":
        """The options for this many training rows: small tables get small steps and enough of them, large ones a cap."""
        batch_rows = max(SMALLEST_BATCH, min(model.batch_rows, rows // 64))
        more = round(model.epochs * max(1.0, USUAL_ROWS / rows) ** 0.6)
        epochs = min(more, max(MOST_EPOCHS, model.epochs), max(2, MOST_ROWS // rows))
        return cls(
            task=model.task,
            epochs=epochs,
            batch_rows=batch_rows,
            learning_rate=model.learning_rate,
            weight_decay=model.weight_decay,
            patience=max(3, epochs // 2),
            seed=model.seed,
            weighted=weighted,
        )


@dataclass
class FitState:
    """Where training stands after an epoch: enough to go on from, bit for bit.

    Args:
        weights: after the epoch; `kept_weights`: those to use, of `kept_epoch`.
        moments: the optimiser's.
        bound: the lowest miss so far plus two of its standard errors.
        curve: what every epoch told: `epoch`, `training_loss`, `validation_loss`, `validation_miss`.
        resumed: the epochs after which a new process went on.
    """

    epoch: int = 0
    weights: Weights = field(default_factory=dict)
    moments: Weights = field(default_factory=dict)
    kept_weights: Weights = field(default_factory=dict)
    kept_epoch: int = 0
    bound: float = math.inf
    curve: list[dict[str, float]] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)

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


@dataclass(frozen=True)
class Group:
    """The workers that train one model together. Each has rows of its own and the same weights as all others.

    Args:
        share: from a worker's network to one whose gradients are averaged over all workers.
        agree: from the judgement, which the first worker makes, to the figures that all go by.
    """

    rank: int = 0
    size: int = 1
    share: Callable[[nn.Module], nn.Module] = lambda net: net
    agree: Callable[[Callable[[], Figures]], Figures] = lambda judge: judge()


def fit(
    net: nn.Module,
    training: Batch,
    validation: Batch,
    options: FitOptions,
    *,
    state: FitState | None = None,
    after_epoch: Callable[[FitState, EpochReport], None] = lambda state, report: None,
    loss: Loss | None = None,
    group: Group = Group(),
) -> FitState:
    """Train until the epochs are over or the validation rows are told worse; `kept_weights` are those to use.

    *Worse* is a miss (1 - ROC AUC, or the loss) more than two standard errors above the lowest: the newest
    tenth of the rows is another season than those before, and its plain minimum stopped flights after one epoch of
    six (mean ROC AUC of the months after 0.672 instead of 0.696). Log loss is worse still: it scores the shifting level.

    Args:
        net: on the device that the rows are on.
        training: this worker's rows, as many as every other worker's.
        state: where a former run stopped.
        after_epoch: called with the state to keep and what to tell.
        loss: of the pipeline's own.
    """
    state = replace(state, resumed=[*state.resumed, state.epoch]) if state else FitState()
    optimiser = _optimiser(net, options)
    if state.epoch:
        net.load_state_dict(state.weights)
        _load_moments(optimiser, state.moments)
    shared = group.share(net)
    while not state.finished(options):
        started = time.perf_counter()
        training_loss = _train_epoch(shared, optimiser, training, options, state.epoch, loss, group)
        judged = validation if validation.rows else training
        validation_loss, miss, error = group.agree(
            lambda: judge(net, judged, options.task, loss, by_rank=not options.weighted)  # noqa: B023 - called at once
        )
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
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    rows: Batch,
    options: FitOptions,
    epoch: int,
    own: Loss | None,
    group: Group,
) -> float:
    torch.manual_seed(options.seed * 100_003 + epoch * group.size + group.rank)
    net.train()
    device = rows.target.device
    batch_rows = max(1, options.batch_rows // group.size)
    steps = len(_starts(rows.rows, batch_rows))
    total = torch.zeros((), device=device)
    for step, batch in enumerate(shuffled(rows, batch_rows)):
        rate = options.learning_rate * one_cycle(epoch * steps + step, options.epochs * steps)
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = net(batch.numbers, batch.categories)
        loss = weighted_mean(row_losses(output.float(), batch.target, options.task, own), batch.weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        total += loss.detach() * batch.rows  # stays on the device: asking for it would wait for every step
    return total.item() / rows.rows


def shuffled(rows: Batch, batch_rows: int) -> Iterator[Batch]:
    """All rows once, in an order that torch's seed decides, in batches that are slices of larger copies."""
    order = torch.randperm(rows.rows).to(rows.target.device)
    starts = [*_starts(rows.rows, batch_rows), rows.rows]
    for place in range(0, len(starts) - 1, GATHERED_STEPS):
        ends = starts[place : place + GATHERED_STEPS + 1]
        gathered = rows.at(order[ends[0] : ends[-1]])
        for first, last in pairwise(ends):
            yield gathered.at(slice(first - ends[0], last - ends[0]))


def _starts(rows: int, batch_rows: int) -> list[int]:
    """Where batches begin; a lone last row goes with the batch before it: there is no spread to normalise one row by."""
    starts = list(range(0, rows, batch_rows))
    return starts[:-1] if len(starts) > 1 and batch_rows > 1 and rows - starts[-1] == 1 else starts


def one_cycle(step: int, steps: int, warm_share: float = 0.2) -> float:
    """Share of the peak learning rate at a step: up in a straight line, down along a cosine, to a hundredth."""
    done = step / max(1, steps)
    if done < warm_share:
        return 0.05 + 0.95 * done / warm_share
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm_share) / (1 - warm_share)))


def _optimiser(net: nn.Module, options: FitOptions) -> torch.optim.Optimizer:
    plain = [value for name, value in net.named_parameters() if name.endswith(UNDECAYED)]
    decayed = [value for name, value in net.named_parameters() if not name.endswith(UNDECAYED)]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        betas=(0.9, 0.99),
        fused=True,
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
