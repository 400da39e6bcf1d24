"""One process prepares a data set while the others wait."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from eqpool.data.builders import prepare_once


class SlowBuilder:
    """Prepares as tensorflow_datasets does: elsewhere first, then under the final name, which must be free."""

    def __init__(self, folder):
        self.data_dir = str(folder / "digits" / "1.0.0")
        self._folder = folder / "digits" / "1.0.0"

    def download_and_prepare(self, download_config):
        if self._folder.exists():
            return
        partial = self._folder.with_name(f"incomplete.{threading.get_ident()}")
        partial.mkdir()
        time.sleep(0.1)
        if self._folder.exists():
            raise FileExistsError(self._folder)
        partial.rename(self._folder)


def test_runs_side_by_side_prepare_it_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: prepare_once(SlowBuilder(tmp_path)), range(4)))
    assert [path.name for path in (tmp_path / "digits").iterdir() if path.is_dir()] == ["1.0.0"]
