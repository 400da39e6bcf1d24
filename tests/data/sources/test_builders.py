"""One process prepares a data set while the others wait."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow_datasets as tfds

from eqpool.data.sources.builders import prepare_once


class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Three numbers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"number": tfds.features.Scalar(dtype=np.int64)})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": ((number, {"number": number}) for number in range(3))}

    def _generate_examples(self):
        raise AssertionError("the splits are generators already")


def make(folder) -> Numbers:
    return Numbers(data_dir=str(folder), file_format="array_record")


def test_runs_side_by_side_prepare_it_once(tmp_path):
    prepared = []

    class SlowNumbers(Numbers, skip_registration=True):
        """Three numbers that take their time."""

        VERSION = Numbers.VERSION

        def _split_generators(self, dl_manager):
            prepared.append(threading.get_ident())
            time.sleep(0.1)
            return super()._split_generators(dl_manager)

    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(lambda _: prepare_once(SlowNumbers(data_dir=str(tmp_path), file_format="array_record")), range(4))
        )
    assert len(prepared) == 1


def test_who_waited_reads_what_the_other_prepared(tmp_path):
    """A builder looks for its data when it is made, which may be before the other has prepared it."""
    first, second = (make(tmp_path) for _ in range(2))
    for builder in (first, second):
        prepare_once(builder)
        assert [row["number"] for row in builder.as_data_source(split="train")] == [0, 1, 2]
