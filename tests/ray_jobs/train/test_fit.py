"""The loop without Ray: it learns, it repeats itself bit for bit, and it goes on where it was stopped."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from perennial.lakehouse.artifacts import MANIFEST, ArtifactRefused
from perennial.lakehouse.lake import Lake
from perennial.rules.description import Architecture
from perennial.rules.metrics import roc_auc
from perennial.rules.network import TabularNet, combine
from perennial.rules.tabular import Preprocessing, fit_preprocessing
from perennial.spec import TabularModel
from ray_jobs.train.checkpoints import STATE, TENSORS, newest_checkpoint, read_checkpoint, told_lines, write_checkpoint
from ray_jobs.train.fit import EpochReport, FitOptions, FitState, fit, shuffled
from ray_jobs.train.objective import Batch, judge
from tests.ray_jobs.train.world import INPUTS, rows

torch.set_num_threads(1)  # as in a worker: two threads that share a core wait for each other at every step
ARCHITECTURE = Architecture(hidden=(32, 32), dropout=0.1)


def prepared(task: str, count: int) -> tuple[Preprocessing, Batch, Batch]:
    table = rows(count)
    fitted = fit_preprocessing(table, INPUTS)
    matrices = fitted.apply(table)
    label = table["late"].to_numpy() if task == "binary" else (matrices.numbers[:, 0] * 2 - 1).astype(np.float64)
    whole = Batch(
        torch.from_numpy(matrices.numbers),
        torch.from_numpy(matrices.categories),
        torch.tensor(label, dtype=torch.float32),
    )
    cut = int(count * 0.8)
    return fitted, whole.at(torch.arange(cut)), whole.at(torch.arange(cut, count))


def trained(task: str = "binary", count: int = 800, epochs: int = 1, state: FitState | None = None) -> FitState:
    fitted, training, validation = prepared(task, count)
    options = FitOptions.of(
        TabularModel(task="binary" if task == "binary" else "regression", epochs=epochs), training.rows
    )
    torch.manual_seed(options.seed)
    return fit(TabularNet(fitted, ARCHITECTURE), training, validation, options, state=state)


def same(first: FitState, second: FitState) -> bool:
    return all(torch.equal(first.kept_weights[name], second.kept_weights[name]) for name in first.kept_weights)


@pytest.mark.parametrize("count", [100, 2_000])
def test_a_binary_target_is_learned_from_a_small_table_too(count: int) -> None:
    state = trained(count=count, epochs=2)
    fitted, training, _ = prepared("binary", count)
    net = TabularNet(fitted, ARCHITECTURE)
    net.load_state_dict(state.kept_weights)
    net.eval()
    assert (
        roc_auc(training.target.numpy(), combine(net(training.numbers, training.categories), "binary").detach().numpy())
        > 0.8
    )


def test_a_number_is_learned() -> None:
    state = trained("regression", epochs=2)
    fitted, _, validation = prepared("regression", 800)
    net = TabularNet(fitted, ARCHITECTURE)
    net.load_state_dict(state.kept_weights)
    loss, miss, _ = judge(net, validation, "regression")
    assert loss == miss < 0.5 * validation.target.var().item()


def test_the_same_training_gives_the_same_weights_bit_for_bit() -> None:
    assert same(trained(), trained())


def test_an_interrupted_training_ends_in_the_weights_of_an_undisturbed_one(lake: Lake) -> None:
    fitted, training, validation = prepared("binary", 800)
    options = FitOptions.of(TabularModel(task="binary", epochs=1), training.rows)
    places: list[str] = []
    storage = lake.files()

    def keep(state: FitState, report: EpochReport) -> None:
        places.append(write_checkpoint(storage, "lake/run", copy.copy(state), report))

    torch.manual_seed(options.seed)
    whole = fit(TabularNet(fitted, ARCHITECTURE), training, validation, options, after_epoch=keep)
    torch.manual_seed(999)  # a new process starts anywhere
    resumed = read_checkpoint(storage, places[1])
    assert resumed.epoch == 2
    assert same(fit(TabularNet(fitted, ARCHITECTURE), training, validation, options, state=resumed), whole)
    assert len(told_lines(storage, "lake/run")) == len(places)


def test_a_torn_checkpoint_is_not_gone_on_from(lake: Lake) -> None:
    storage = lake.files()
    where = write_checkpoint(storage, "lake/torn", trained(epochs=1), EpochReport(1, 1, 0.1, 0.1, 0.1, 1.0))
    storage.pipe_file(f"{where}/{TENSORS}", storage.cat_file(f"{where}/{TENSORS}")[:-8])
    with pytest.raises(ArtifactRefused, match=TENSORS):
        read_checkpoint(storage, where)


def test_a_checkpoint_without_its_manifest_is_not_gone_on_from(lake: Lake) -> None:
    storage = lake.files()
    where = write_checkpoint(storage, "lake/half", trained(epochs=1), EpochReport(1, 1, 0.1, 0.1, 0.1, 1.0))
    storage.rm_file(f"{where}/{MANIFEST}")
    with pytest.raises(ArtifactRefused, match="incomplete"):
        read_checkpoint(storage, where)


@pytest.mark.parametrize("left", [b"", b'{"format'])
def test_a_checkpoint_of_which_a_file_was_cut_short_stops_no_training(lake: Lake, left: bytes) -> None:
    storage, run = lake.files(), f"lake/cut-{len(left)}"
    first, second = EpochReport(1, 2, 0.1, 0.1, 0.1, 1.0), EpochReport(2, 2, 0.1, 0.1, 0.1, 1.0)
    whole, cut = replace(trained(epochs=1), epoch=1), replace(trained(epochs=1), epoch=2)
    kept, where = write_checkpoint(storage, run, whole, first), write_checkpoint(storage, run, cut, second)
    for file in (MANIFEST, STATE):
        storage.pipe_file(f"{where}/{file}", left)
    newest = newest_checkpoint(storage, run)
    assert newest is not None
    assert newest.epoch == 1
    assert list(told_lines(storage, run)) == [kept]


def test_a_lone_last_row_goes_with_the_batch_before_it() -> None:
    _, training, validation = prepared("binary", 122)  # 97 to train on, 32 a batch
    assert training.rows == 97

    class Normed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = torch.nn.BatchNorm1d(training.numbers.shape[1]), torch.nn.LazyLinear(1)

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.out(self.norm(numbers))[:, 0]
            return output

    net = Normed()
    net(training.numbers, training.categories)
    options = FitOptions.of(TabularModel("binary", epochs=1), training.rows)
    assert training.rows % options.batch_rows == 1
    assert fit(net, training, validation, options).kept_epoch
    torch.manual_seed(1)
    sizes = [batch.rows for batch in shuffled(training, 32)]
    assert sizes == [32, 32, 33]


def test_large_tables_are_passed_over_less_often_and_small_ones_more() -> None:
    model = TabularModel(task="binary")
    assert FitOptions.of(model, 80_000).epochs == model.epochs
    assert FitOptions.of(model, 400_000).epochs < model.epochs < FitOptions.of(model, 100).epochs
