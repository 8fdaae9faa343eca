"""Inputs together: how well a classifier tells a window's rows from the reference's.

It sees what no single column shows, such as two inputs that no longer go together. Source: Lopez-Paz and Oquab 2017,
arXiv:1610.06545 (classifier two-sample test); Rabanser et al. 2019, arXiv:1810.11953, for its use on shifts.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.rules.evidence import Z_999, Together
from perennial.rules.metrics import roc_auc, roc_auc_error
from perennial.rules.tabular import InputKind

MOST_ROWS = 2_000  # of each window: more make the answer sharper and the wait longer
FOLDS = 2
LARGEST_VOCABULARY = 200


def tell_apart(
    current: pl.DataFrame, reference: pl.DataFrame, inputs: Mapping[str, InputKind], seed: int
) -> Together | None:
    """Cross-fitted ROC AUC of a boosted classifier on bounded samples; None where one of them is nearly empty."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    parts = [rows.sample(min(rows.height, MOST_ROWS), seed=seed, shuffle=True) for rows in (current, reference)]
    if min(part.height for part in parts) < 100:
        return None
    both = pl.concat([part.select(_column(part, name, kind) for name, kind in inputs.items()) for part in parts])
    matrix = np.column_stack([_codes(both[name], kind) for name, kind in inputs.items()])
    truth = np.repeat([1.0, 0.0], [part.height for part in parts])
    folds = np.random.default_rng(seed).permutation(len(truth)) % FOLDS
    scores = np.empty(len(truth))
    for fold in range(FOLDS):
        model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8, random_state=seed, early_stopping=False)
        held = folds == fold
        scores[held] = model.fit(matrix[~held], truth[~held]).predict_proba(matrix[held])[:, 1]
    chance = 0.5 + Z_999 * roc_auc_error(0.5, parts[0].height, parts[1].height)
    return Together(roc_auc=roc_auc(truth, scores), chance=chance, rows=len(truth))


def _column(rows: pl.DataFrame, name: str, kind: InputKind) -> pl.Expr:
    return pl.col(name).cast(pl.Float64 if kind == "number" else pl.String)


def _codes(values: pl.Series, kind: InputKind) -> NDArray[np.float64]:
    if kind == "number":
        return np.asarray(values.fill_null(np.nan).to_numpy(), dtype=np.float64)
    counted = values.drop_nulls().value_counts(sort=True).head(LARGEST_VOCABULARY)
    place = {value: float(number) for number, value in enumerate(counted[counted.columns[0]])}  # commonest first
    return np.array([place.get(value, np.nan) for value in values])
