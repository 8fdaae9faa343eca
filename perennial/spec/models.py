"""What a pipeline says of its model: the default one for tables, or a network of its own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Task = Literal["binary", "multiclass", "regression"]
ClassWeight = Literal["balanced"] | Mapping[str, float] | None


@dataclass(frozen=True)
class TabularModel:
    """The default model for tables: an ensemble of embedding networks that share weights, trained with Ray Train.

    Args:
        task: `binary` gives a probability; `multiclass` one for each class, of labels that are strings or integers;
            `regression` a number in the label's unit.
        hidden: units of each hidden layer.
        members: networks in the ensemble.
        epochs: passes over the training rows at most; more on small tables. Training stops early when the newest tenth
            of the training rows is told worse.
        batch_rows: rows per step at most, over all workers; fewer on small tables.
        learning_rate: peak of the one-cycle schedule.
        seed: of weights, dropout and shuffling.
        class_weight: how much rows of a class count in training: `balanced` counts every class the same, a mapping
            names classes as text, `{"1": 10.0}` for a binary target; classes it does not name count 1. Probabilities are
            then those of a world in which classes are as frequent as they are weighted.
    """

    task: Task
    hidden: tuple[int, ...] = (256, 128)
    members: int = 8
    epochs: int = 4
    batch_rows: int = 1024
    learning_rate: float = 2e-3
    dropout: float = 0.4
    weight_decay: float = 0.1
    seed: int = 13
    class_weight: ClassWeight = None


@dataclass(frozen=True)
class TorchModel:
    """A network of the pipeline's own: any `torch.nn.Module`, trained, stored and served as the default one is.

    Args:
        task: as of `TabularModel`; decides what the network's numbers mean: log-odds, log-odds of each class, or the
            label in standard deviations from its mean.
        builder: called with what was learned of the inputs (`perennial.rules.tabular.Preprocessing`: `number_width`
            numbers, `categories` with their `slots`) and the number of outputs; returns a module whose
            `forward(numbers, categories)` takes float (n, number_width) and int64 (n, categories), and gives (n,) or
            (n, outputs). Weights are loaded into what it builds, so it must build the same for the same inputs. Scores are
            computed in float64: make new tensors like the inputs.
        loss: of the network's output and the targets, one value per row or one for all; None: log loss or squared error.
    """

    task: Task
    builder: Callable[..., Any] = field(compare=False)
    loss: Callable[..., Any] | None = field(default=None, compare=False)
    epochs: int = 6
    batch_rows: int = 1024
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    seed: int = 13
    class_weight: ClassWeight = None


def find_model_mistakes(model: TabularModel | TorchModel) -> Iterator[tuple[str, str]]:
    """What cannot be right of a model's declaration, each with the word that it is said of."""
    if model.task not in get_args(Task):
        yield f"task is {model.task!r}; there are {list(get_args(Task))}.", "task"
    for name in ("epochs", "batch_rows", "learning_rate", "members"):
        if getattr(model, name, 1) <= 0:
            yield f"{name} is {getattr(model, name)}, it must be more than 0.", name
    if isinstance(model, TorchModel):
        for name in ("builder", "loss"):
            value = getattr(model, name)
            if not callable(value) and (name == "builder" or value is not None):
                yield f"{name} is {value!r}, it must be a function.", name
    else:
        if not model.hidden or min(model.hidden) < 1:
            yield f"hidden is {model.hidden}: name the units of at least one layer.", "hidden"
        if not 0 <= model.dropout < 1:
            yield f"dropout is {model.dropout}, it must be at least 0 and below 1.", "dropout"
    yield from _find_weight_mistakes(model)


def _find_weight_mistakes(model: TabularModel | TorchModel) -> Iterator[tuple[str, str]]:
    wanted = model.class_weight
    if wanted is None:
        return
    if model.task == "regression":
        yield "class_weight is for classes; a regression has none.", "class_weight"
    elif isinstance(wanted, str):
        if wanted != "balanced":
            yield f"class_weight is {wanted!r}; it is 'balanced' or a mapping of classes to weights.", "class_weight"
    elif any(not isinstance(name, str) for name in wanted):
        yield f"class_weight names classes as text, such as {{'1': 10.0}}; it has {list(wanted)}.", "class_weight"
    elif any(not 0 < weight < float("inf") for weight in wanted.values()):
        yield f"class_weight must be positive numbers; it has {dict(wanted)}.", "class_weight"
    elif model.task == "binary" and set(wanted) - {"0", "1"}:
        yield f"class_weight of a binary target names '0' and '1'; it has {list(wanted)}.", "class_weight"
