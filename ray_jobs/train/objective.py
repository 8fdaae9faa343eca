"""What training minimises and what stops it: losses per row, and how far the newest rows are missed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perennial.rules.metrics import roc_auc, roc_auc_error
from perennial.rules.network import by_member, combine

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """Rows ready for a network: float32 (n, numbers), int64 (n, categories), float32 (n,) targets and weights.

    Args:
        weight: how much each row counts, about 1 on average; None: all the same.
    """

    numbers: Tensor
    categories: Tensor
    target: Tensor
    weight: Tensor | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.target)

    def at(self, index: Tensor | slice) -> "Batch":
        """The rows at these positions: a copy, or a view for a slice."""
        return self._each(lambda column: column[index])

    def to(self, device: torch.device) -> "Batch":
        """The rows on a device."""
        return self._each(lambda column: column.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        weight = None if self.weight is None else change(self.weight)
        return Batch(change(self.numbers), change(self.categories), change(self.target), weight)


def row_losses(output: Tensor, target: Tensor, task: str, own: Loss | None = None) -> Tensor:
    """(n,): each row's loss, the mean of the members' own: log loss, or the squared error of the scaled target.

    Args:
        own: the pipeline's loss, of a network's output and targets; classes as int64. One value per row, or one for all.
    """
    if own is not None:
        return own(output, target.long() if task == "multiclass" else target)
    every = by_member(output)
    if task == "multiclass":
        wanted = target.long()[:, None].expand(-1, every.shape[1])
        return nn.functional.cross_entropy(every.transpose(1, 2), wanted, reduction="none").mean(dim=1)
    single = every[:, :, 0]
    wanted = target[:, None].expand_as(single)
    if task == "binary":
        return nn.functional.binary_cross_entropy_with_logits(single, wanted, reduction="none").mean(dim=1)
    return ((single - wanted) ** 2).mean(dim=1)


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over rows; weights are about 1 on average, so that a batch's share is the same for all batches."""
    if weight is None:
        return losses.mean()
    if losses.shape != weight.shape:
        raise ValueError(
            f"the loss is of shape {tuple(losses.shape)} for {len(weight)} rows that have weights; it must give one value a "
            "row, (n,), or the weights would count for nothing. Return the rows' losses without taking their mean."
        )
    return (losses * weight).mean()


def judge(
    net: nn.Module, rows: Batch, task: str, own: Loss | None = None, *, by_rank: bool = True, batch_rows: int = 16_384
) -> tuple[float, float, float]:
    """Loss, miss and the miss's standard error over rows, without dropout.

    The miss is 1 - ROC AUC for two classes, else the loss of what the members say together; the loss as well where one
    class only is there, and where the loss is the pipeline's own.

    Args:
        by_rank: whether two classes are judged by ROC AUC, which knows no weights.
    """
    net.eval()
    with torch.inference_mode():
        parts = [rows.at(slice(start, start + batch_rows)) for start in range(0, rows.rows, batch_rows)]
        outputs = [net(part.numbers, part.categories).float() for part in parts]
        output, target = torch.cat(outputs), rows.target
        losses = row_losses(output, target, task, own) if own else _losses_together(combine(output, task), target, task)
        loss = weighted_mean(losses, rows.weight).item()
        spread = losses if rows.weight is None else losses * rows.weight
    error = spread.std(correction=0).item() / math.sqrt(rows.rows) if losses.ndim else 0.0
    if task != "binary" or own or not by_rank:
        return loss, loss, error
    auc = roc_auc(target.cpu().numpy(), combine(output, task).cpu().numpy())
    if math.isnan(auc):
        return loss, loss, error
    positives = target.sum().item()
    return loss, 1.0 - auc, roc_auc_error(auc, positives, rows.rows - positives)


def _losses_together(said: Tensor, target: Tensor, task: str) -> Tensor:
    if task == "multiclass":
        return -said.gather(1, target.long()[:, None])[:, 0].clamp_min(1e-12).log()
    if task == "binary":
        return nn.functional.binary_cross_entropy(said.clamp(1e-12, 1.0), target, reduction="none")
    return (said - target) ** 2
