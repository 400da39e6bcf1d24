"""German's whole protocol, 501 + 501 epochs after compilation: `make benchmark ARGS="-k protocol"`."""

import pytest

from benchmarks.table_stages import Epochs


@pytest.mark.parametrize("name", ["stage_one", "stage_two"])
def test_protocol_german_one_seed(benchmark, name):
    stage = Epochs("german", name)

    def all_epochs():
        for _ in range(stage.epochs):
            stage.run()

    benchmark.extra_info["milliseconds_a_step"] = None
    benchmark.pedantic(all_epochs, rounds=1, iterations=1)
    if benchmark.stats:
        steps = stage.epochs * stage.steps
        benchmark.extra_info["milliseconds_a_step"] = 1000 * benchmark.stats.stats.min / steps
