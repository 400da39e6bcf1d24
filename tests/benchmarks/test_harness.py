"""How rows are timed and kept."""

import json

import pytest

from benchmarks import harness
from benchmarks.harness import Job, Results, in_turns, timed

SMALL = Job("ours", "mmd", "loss", {"rows": 8, "sites": 2, "gradient": True, "n": 3})


class Benchmark:
    """pytest-benchmark's fixture, as far as `timed` needs it."""

    def __init__(self):
        self.extra_info, self.calls = {}, 0

    def pedantic(self, run, rounds, warmup_rounds):
        for _ in range(rounds + warmup_rounds):
            run()
        self.calls = rounds, warmup_rounds


def test_a_row_is_warmed_up_waited_for_and_says_where_it_ran():
    waited = []

    class Result:
        def block_until_ready(self):
            waited.append(self)

    benchmark = Benchmark()
    timed(benchmark, Result, rounds=3, warm_ups=2, batch=4)
    assert len(waited) == 5 and benchmark.calls == (3, 2)
    assert benchmark.extra_info["batch"] == 4
    assert {"device", "accelerator", "python", "jax"} <= set(benchmark.extra_info)


@pytest.mark.slow
def test_jobs_in_fresh_processes_have_medians_memory_and_a_value():
    failures = []
    missing = Job("ours", "mmd", "no_such_function", {})
    measured = in_turns({"a": SMALL, "b": SMALL, "c": missing}, lambda name, error: failures.append((name, str(error))))
    assert set(measured) == {"a", "b"} and measured["a"]["value"] == measured["b"]["value"]
    for one in measured.values():
        assert 0 < one["best_ms"] <= one["median_ms"] and one["runs"] >= harness.ROUNDS and one["peak_bytes"] >= 0
    assert [name for name, _ in failures] == ["c"] and "no_such_function" in failures[0][1]
    with pytest.raises(RuntimeError, match="no_such_function"):
        in_turns({"c": missing})


def test_rows_of_one_machine_join_a_table_in_order_and_others_go(tmp_path, capsys):
    def add(what, ms):
        table = Results(tmp_path / "x" / "table", "python -m benchmarks.x", "| what | ms |\n|---|--:|", as_line)
        table.add({"what": what, "ms": ms, "date": "2026-01-01", "load_average": 0.5}, ["first", "second"])
        return json.loads((tmp_path / "x" / "table.json").read_text())["rows"]

    def as_line(row):
        return f"| {row['what']} | {row['ms']} |"

    add("second", 2)
    assert [row["ms"] for row in add("first", 1)] == [1, 2]
    assert [row["ms"] for row in add("first", 3)] == [3, 2]
    text = (tmp_path / "x" / "table.md").read_text()
    assert "| first | 3 |\n| second | 2 |" in text and "load average at most 0.5" in text
    assert "| first | 3 |" in capsys.readouterr().out
    written = json.loads((tmp_path / "x" / "table.json").read_text())
    (tmp_path / "x" / "table.json").write_text(json.dumps(written | {"about": {"device": "another"}}))
    assert [row["what"] for row in add("first", 4)] == ["first"]
