"""The default network for tables: piecewise-linear numbers, embedded categories, a multi-layer perceptron.

Source of the number encoding: Gorishniy et al. 2022, arXiv:2203.05556, section 3.2. Values beyond the training rows'
range are held at its ends, so a season never seen moves a score no further than the nearest one seen.
"""

import torch
from torch import Tensor, nn

from perennial.rules.description import Architecture
from perennial.rules.tabular import UNSEEN_SLOT, Preprocessing


class TabularNet(nn.Module):
    """One output per row: the log-odds of the positive class, or the standardised target."""

    def __init__(self, preprocessing: Preprocessing, architecture: Architecture) -> None:
        super().__init__()
        self.category_dropout = architecture.category_dropout
        self.indicators = len(preprocessing.indicators)
        self.scaled = len(preprocessing.scaled)
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
        width = len(bins) + self.indicators + sum(_embedding_width(c.slots) for c in preprocessing.categories)
        layers: list[nn.Module] = []
        for units in architecture.hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(architecture.dropout)]
            width = units
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """(n, number_width) and (n, categories) to (n,)."""
        parts = [self._encode(numbers), numbers[:, self.scaled :]]
        if self.training and self.category_dropout:
            # The unseen slot must mean "about average" from the first day, also where no value was rare.
            hidden = torch.rand(categories.shape) < self.category_dropout
            categories = categories.masked_fill(hidden.to(categories.device), UNSEEN_SLOT)
        parts += [embed(categories[:, position]) for position, embed in enumerate(self.embeddings)]
        hidden_units: Tensor = self.head(self.body(torch.cat(parts, dim=1)))
        return hidden_units[:, 0]

    def _encode(self, numbers: Tensor) -> Tensor:
        values = numbers.index_select(1, self.get_buffer("bin_column"))
        return ((values - self.get_buffer("bin_low")) / self.get_buffer("bin_width")).clamp(0.0, 1.0)


def _embedding_width(slots: int) -> int:
    return min(16, max(2, round(1.6 * slots**0.56)))
