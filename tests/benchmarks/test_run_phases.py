import cProfile
import pstats

from benchmarks.run_phases import lines_of


def test_each_phase_that_ran_is_shown_with_its_calls_and_the_time_of_what_it_calls():
    clock = iter(range(1000))
    names: dict = {}
    exec(compile("def _score():\n    return inner()\ndef inner():\n    return 1\n", "a/methods/istn.py", "exec"), names)
    profile = cProfile.Profile(lambda: next(clock))
    for _ in range(2):
        profile.runcall(names["_score"])
    lines = list(lines_of(pstats.Stats(profile)))
    shown = [line for line in lines if line.endswith("scorecard")]
    inner = next(one for key, one in pstats.Stats(profile).stats.items() if key[2] == "inner")  # type: ignore
    assert len(lines) == 2 and len(shown) == 1  # the total, and no line of a phase that did not run
    seconds, calls = float(shown[0].split()[0]), int(shown[0].split()[2])
    assert calls == 2 and seconds > inner[3] > 0
