"""What a perfect harmonisation could recover: `python -m experiments.istn_brain.oracle`; writes oracle.md here.

The SIMULATED cohorts of `experiments.istn_brain` once more, the source's own brains scanned by the reference's scanner
from the start. The source's task model is trained on them and judged on the reference's held-out brains, as after a
harmonisation without a flaw: what an ISTN loses against this is its own, and the rest are the few brains.
"""

import dataclasses
import pathlib
import sys
from typing import Any

from eqpool.commandline import complain, make_parser
from eqpool.data.grids import named_grid
from eqpool.data.simulated import SPECIFICATIONS, build_simulated_cohort
from eqpool.errors import InputError
from eqpool.files import write_text
from experiments.cells import provenance, with_interval
from experiments.istn_brain.__main__ import DIRECTIONS
from experiments.runner import Task, add_run_flags, config_of, run_all, some_of


def main() -> None:
    """Simulates, trains the task models or resumes, and writes the table."""
    parser = make_parser("experiments.istn_brain.oracle", __doc__)
    configs = ",".join(DIRECTIONS)
    parser.add_argument("--configs", type=some_of(DIRECTIONS), default=configs, help="comma-separated")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the simulated subjects")
    add_run_flags(parser, jobs=1)
    arguments = parser.parse_args()
    try:
        tasks = [_task(name, arguments.fraction, arguments.runs) for name in arguments.configs]
        results = run_all(tasks, arguments.jobs, "oracle")
    except InputError as error:
        sys.exit(complain(error))
    write_text(pathlib.Path(__file__).with_name("oracle.md"), markdown(arguments.configs, results))


def _task(name: str, fraction: float, runs: pathlib.Path) -> Task:
    grid = config_of(Task(name, "", {}, runs)).data.grid
    specification = SPECIFICATIONS[name]
    source, reference = specification.sites
    alike = dataclasses.replace(
        specification, sites=(dataclasses.replace(source, scanner=reference.scanner), reference)
    )
    cohort = build_simulated_cohort(runs / "cache" / "oracle", alike, named_grid(grid), fraction=fraction)
    setting = {
        "data.participants": str(cohort / "participants.tsv"),
        "istn.reference": reference.name,
        "istn.shape": "none",
        "istn.epochs": 0,  # the images are alike already
        "output.harmonised": "none",
        "cache_dir": str(runs / "cache"),
    }
    return Task(name, "", setting, runs / f"istn_oracle_{fraction:g}" / name)


def markdown(configs: list[str], results: list[dict[str, Any]]) -> str:
    """The table as text, with 95% intervals."""
    lines = [
        "# What a perfect harmonisation could recover",
        "",
        f"SIMULATED volumes. Written by `python -m experiments.istn_brain.oracle` {provenance(results[0])};",
        f"seed {results[0]['seed']}. The task model is trained on the source's brains as the reference's scanner sees",
        "them. On held-out brains with 95% intervals: accuracy in % (sex), MAE in years (age).",
        "",
        "| config | single site | on the reference |",
        "|---|---|---|",
    ]
    for name, result in zip(configs, results, strict=True):
        key, digits = ("accuracy", 1) if "accuracy" in result["metrics"] else ("mae", 2)
        cells = [with_interval(result["metrics"], f"{which}_{key}", digits) for which in ("source", "before")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
