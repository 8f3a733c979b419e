"""The negative-transfer probe: do the datasets of a run pull what they share in one direction?"""

from llava_mocle.analysis.training_point import TrainingPoint
from llava_mocle.analysis.transfer.domain_gradients import DomainGradients, measure_gradients
from llava_mocle.analysis.transfer.gradient_cosines import FEWEST_BATCHES
from llava_mocle.errors import ConfigError, DataError


def draw_batches(point: TrainingPoint, number: int, size: int, seed: int) -> list[tuple[int, list[int]]]:
    """(dataset, its samples) of up to `number` batches of each dataset, drawn by chance without a row twice.

    Raises:
        DataError: a dataset has too few rows.
    """
    drawn = []
    for dataset, (name, samples) in enumerate(zip(point.names, point.draw(number * size, seed), strict=True)):
        found = len(samples) // size
        if found < FEWEST_BATCHES:
            raise DataError(
                f"dataset {name!r} has {len(samples)} rows, and {FEWEST_BATCHES} batches of {size} are needed at "
                "least; set per_device_train_batch_size to less, or leave the dataset out"
            )
        drawn += [(dataset, samples[batch * size : (batch + 1) * size]) for batch in range(found)]
    return drawn


def probe(point: TrainingPoint, number: int, seed: int = 0) -> DomainGradients:
    """Measure `number` batches of each dataset.

    Raises:
        ConfigError: fewer than two datasets, or nothing that they share.
        DataError: a dataset has too few rows.
    """
    if len(point.names) < 2:
        raise ConfigError(f"one dataset ({point.names[0]}) has no other to be compared with; the probe needs two")
    if number < FEWEST_BATCHES:
        raise ConfigError(f"--batches is {number}, expected at least {FEWEST_BATCHES}")
    size = point.args.per_device_train_batch_size
    batches = point.load(draw_batches(point, number, size, seed), "gradient")
    return measure_gradients(point.model, batches, point.names, point.loss_of, batch_size=size)
