"""The default network for tables: a parameter-efficient ensemble of multi-layer perceptrons on embedded inputs.

Sources: the ensemble, Gorishniy et al. 2024, arXiv:2410.24210 (TabM), on the layers of Wen et al. 2020, arXiv:2002.06715;
the piecewise-linear encoding of numbers, Gorishniy et al. 2022, arXiv:2203.05556, section 3.2. Values beyond the training
rows' range are held at its ends, so a season never seen moves a score no further than the nearest one seen.

Unlike in the paper the members' own scales stand behind the first product instead of before it: a row's wide encoding is
multiplied once for all members, which on a CPU makes eight members cost about as much as three plain networks.
"""

import torch
from torch import Tensor, nn

from perennial.rules.description import Architecture
from perennial.rules.tabular import UNSEEN_SLOT, Preprocessing


class TabularNet(nn.Module):
    """Outputs per row and member: log-odds of the positive class or of each class, or the standardised target."""

    def __init__(self, preprocessing: Preprocessing, architecture: Architecture, outputs: int = 1) -> None:
        super().__init__()
        self.category_dropout = architecture.category_dropout
        self.scaled = len(preprocessing.scaled)
        self.members = architecture.members
        bins = [
            (position, low, high - low)
            for position, column in enumerate(preprocessing.scaled)
            for low, high in zip(column.edges, column.edges[1:], strict=False)
        ]
        self.register_buffer("bin_column", torch.tensor([b[0] for b in bins], dtype=torch.int64), persistent=False)
        self.register_buffer("bin_low", torch.tensor([b[1] for b in bins]), persistent=False)
        self.register_buffer("bin_width", torch.tensor([b[2] for b in bins]), persistent=False)
        self.embeddings = nn.ModuleList(
            nn.Embedding(column.slots, _embedding_width(column.slots)) for column in preprocessing.categories
        )
        width = len(bins) + len(preprocessing.indicators)
        width += sum(_embedding_width(column.slots) for column in preprocessing.categories)
        layers: list[nn.Module] = []
        for units in architecture.hidden:
            linear = (
                nn.Linear(width, units)
                if self.members == 1
                else SharedLinear(width, units, self.members, first=not layers)
            )
            layers += [linear, nn.ReLU(), RowDropout(architecture.dropout)]
            width = units
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs) if self.members == 1 else OwnLinear(width, outputs, self.members)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """(n, number_width) and (n, categories) to (n, members, outputs)."""
        parts = [self._encode(numbers), numbers[:, self.scaled :]]
        if self.training and self.category_dropout:
            # The unseen slot must mean "about average" from the first day, also where no value was rare.
            hidden = torch.rand(categories.shape, device=categories.device) < self.category_dropout
            categories = categories.masked_fill(hidden, UNSEEN_SLOT)
        parts += [embed(categories[:, position]) for position, embed in enumerate(self.embeddings)]
        output: Tensor = self.head(self.body(torch.cat(parts, dim=1)))
        return output.transpose(0, 1) if self.members > 1 else output[:, None, :]

    def _encode(self, numbers: Tensor) -> Tensor:
        values = numbers.index_select(1, self.get_buffer("bin_column"))
        return ((values - self.get_buffer("bin_low")) / self.get_buffer("bin_width")).clamp(0.0, 1.0)


class SharedLinear(nn.Module):
    """One matrix for all members, and for each member scales and biases of its outputs.

    Scales of the inputs, which the paper has too, would add nothing: a positive scale passes through the ReLU before.
    """

    def __init__(self, width: int, units: int, members: int, *, first: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(width, units, bias=False)
        # Signs at random in the first layer only: they make members differ, and deeper ones would make them forget.
        signs = torch.randint(0, 2, (members, 1, units)).float() * 2 - 1
        self.scale = nn.Parameter(signs if first else torch.ones(members, 1, units))
        bound = width**-0.5
        self.bias = nn.Parameter(torch.empty(members, 1, units).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, width) in the first layer, (members, n, width) in later ones, to (members, n, units)."""
        return torch.addcmul(self.bias, self.shared(rows), self.scale)


class RowDropout(nn.Module):
    """Dropout that hides the same units of a row from every member: what one cannot learn by, the others cannot either.

    A mask for each member took 43% of a training step on a CPU and regularised less, as the members' noise averages out.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, rows: Tensor) -> Tensor:
        """(members, n, units) or (n, units) to the same."""
        if not self.training or not self.share:
            return rows
        kept = torch.rand(rows.shape[-2:], dtype=rows.dtype, device=rows.device) >= self.share
        return rows * (kept / (1 - self.share))


class OwnLinear(nn.Module):
    """A matrix for each member: (members, n, width) to (members, n, outputs)."""

    def __init__(self, width: int, outputs: int, members: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(members, width, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        """See the class."""
        return torch.baddbmm(self.bias, rows, self.weight)


def _embedding_width(slots: int) -> int:
    return min(16, max(2, round(1.6 * slots**0.56)))


def combine(output: Tensor, task: str) -> Tensor:
    """What a network says of rows: (n,) probabilities or scaled values, (n, classes) probabilities for many classes.

    Args:
        output: (n, members, outputs) of the default network; (n,) or (n, outputs) of a network of the pipeline's own.
    """
    every = by_member(output)
    if task == "multiclass":
        return torch.softmax(every, dim=2).mean(dim=1)
    single = every[:, :, 0]
    return (torch.sigmoid(single) if task == "binary" else single).mean(dim=1)


def by_member(output: Tensor) -> Tensor:
    """Any network's output as (n, members, outputs)."""
    if output.ndim == 1:
        return output[:, None, None]
    return output[:, None, :] if output.ndim == 2 else output
