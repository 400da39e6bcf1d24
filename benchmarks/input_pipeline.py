"""Compares the rates of reading and training, in volumes per second, to show whether the device waits for data.

    python -m benchmarks.input_pipeline

64 volumes of 91 x 109 x 91 are written as records. `volume_batches` reads them shuffled, in batches of 4, with two
threads. Then the training step of the ADNI-size encoder runs on such batches, first on a batch in memory and then on
batches from the loader. The page cache is warm.
"""

import pathlib
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from benchmarks.bench_encoder import encoder_loss, init_encoder
from benchmarks.harness import about, seconds
from eqpool.data.volumes.batches import volume_batches
from eqpool.data.volumes.records import RecordedVolumes, link_dataset, write_shard

_SHAPE, _VOLUMES, _SHARDS, _BATCH = (91, 109, 91), 64, 4, 4


def record(folder: pathlib.Path) -> RecordedVolumes:
    """Writes the volumes in shards, and returns them as one data set."""
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.array_record" for number in range(_SHARDS)]
    each = _VOLUMES // _SHARDS
    for file in files:
        write_shard(file, (generator.standard_normal(_SHAPE, np.float32) for _ in range(each)), _SHAPE)
    (folder / "dataset").mkdir()
    link_dataset(folder / "dataset", files, [each] * _SHARDS, _SHAPE)
    return RecordedVolumes(folder / "dataset", np.arange(_VOLUMES), _SHAPE)


def batches(volumes: RecordedVolumes, epoch: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns the batches of one epoch."""
    return volume_batches(volumes, np.arange(_VOLUMES), batch_size=_BATCH, epoch=epoch)


def main() -> None:
    """Prints the rates."""
    with tempfile.TemporaryDirectory() as folder:
        volumes = record(pathlib.Path(folder))
        last: deque[dict[str, np.ndarray]] = deque(maxlen=1)
        reading = seconds(lambda: last.extend(batches(volumes, 0)))
        example = last[0]["inputs"]
        variables = jax.jit(init_encoder)(example)
        step = jax.jit(lambda variables, volume: jax.grad(encoder_loss, has_aux=True)(variables, volume)[0])
        jax.block_until_ready(step(variables, example))

        def train(inputs: Iterable[np.ndarray]) -> None:
            for one in inputs:
                jax.block_until_ready(step(variables, one))

        computing = seconds(lambda: train([example] * (_VOLUMES // _BATCH)))
        together = seconds(lambda: train(batch["inputs"] for batch in batches(volumes, 1)))
    megabytes = 4 * np.prod(_SHAPE) / 1e6
    print(about())
    print(
        f"{jax.devices()[0].device_kind}, batch {_BATCH}, {_VOLUMES} volumes of {megabytes:.1f} MB, volumes a second:"
    )
    print(f"  read alone                 {_VOLUMES / reading:6.1f}  ({_VOLUMES * megabytes / reading:.0f} MB a second)")
    print(f"  steps on a batch in memory {_VOLUMES / computing:6.1f}")
    print(f"  steps fed by the loader    {_VOLUMES / together:6.1f}  ({100 * (together / computing - 1):.0f} % longer)")


if __name__ == "__main__":
    main()
