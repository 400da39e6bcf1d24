"""Registry of all experiments. The command, the index in README.md and the tests read this list."""

import dataclasses
import pathlib

HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
      name: name in `python -m experiments NAME`, of the page pages/NAME.md and of the numbers results/NAME*.json.
      module: module under experiments/ with the functions `add_flags`, `run` and `markdown`.
      question: question that the experiment asks, in one line.
      flags: flags of the usual command. Names in capitals stand for the user's own folders.
      time: duration on two CPU cores.
    """

    name: str
    module: str
    question: str
    flags: str
    time: str

    @property
    def command(self) -> str:
        """The usual command."""
        return f"python -m experiments {self.name} {self.flags}".rstrip()


_UCI = "--raw_dir=UCI --published_dir=PUBLISHED"

_ALL = (
    Experiment(
        "table2_german", "comparison", "Lokhande et al. 2022, Table 2, German credit: seven methods, three seeds", _UCI,
        "not timed since settings are chosen by folds",
    ),
    Experiment(
        "table2_adult", "comparison", "Lokhande et al. 2022, Table 2, Adult census: seven methods, three seeds", _UCI,
        "not timed since settings are chosen by folds",
    ),
    Experiment(
        "table2_adni", "comparison", "Lokhande et al. 2022, Table 2, ADNI: seven methods, five splits", "--jobs=2",
        "not timed since settings are chosen by folds",
    ),
    Experiment(
        "table2_adcp", "comparison", "Lokhande et al. 2022, Table 2, ADCP: seven methods, five splits", "--jobs=2",
        "not timed since settings are chosen by folds",
    ),
    Experiment(
        "table2_adni_matched", "comparison",
        "Table 2 on a cohort whose sites have like ages: seven methods, five splits",
        "--jobs=2", "not timed since settings are chosen by folds",
    ),
    Experiment(
        "small_support", "comparison", "Lokhande et al. 2022, Fig. 6 right: scanners whose ages barely overlap",
        "--jobs=2 --splits=1 --set=evaluate.probe_permutations=0",
        "not timed since settings are chosen by folds",
    ),
    Experiment(
        "rescanned", "comparison", "Does pooling remove a known second scanner from real brains?",
        "--participants=RESCANNED/participants.tsv", "7 to 15 minutes a run",
    ),
    Experiment(
        "recovery", "recovery", "How much of a simulated cohort's known truth do harmonised volumes recover?",
        "--config=adni", "45 minutes",
    ),
    Experiment(
        "calibrated_volumes", "calibrated_volumes",
        "How close does the site calibration bring simulated volumes to their truth, beside ComBat?", "",
        "3 minutes on one core",
    ),
    Experiment(
        "calibrated_maps", "calibrated_maps",
        "Do maps of the diagnosis find more truly affected voxels after the site calibration?", "--bootstraps=60",
        "3 minutes",
    ),
    Experiment(
        "rescanned_volumes", "rescanned_volumes",
        "How close does the site calibration bring real brains of a simulated scanner to their own scans?",
        "--participants=RESCANNED/participants.tsv --originals=IXI/participants.tsv",
        "1 minute, and aligning the volumes once",
    ),
    Experiment(
        "common_scale", "common_scale",
        "Is the scanner found in the raw intensities of harmonised volumes, as scanned and on the common scale?", "",
        "15 minutes; --cohorts=adcp 4 minutes",
    ),
    Experiment(
        "cohorts", "cohorts.command", "Raw features, ComBat, the baselines and ours on real multi-site tables",
        "--cohorts=COHORTS --unseen", "25 to 40 minutes, a minute more for each baseline and cohort",
    ),
    Experiment(
        "known_truth_tables", "known_truth_tables",
        "The same people measured by two pipelines: what does each method make of them?", "--cohorts=COHORTS",
        "3 minutes",
    ),
    Experiment(
        "erasure", "erasure", "What does erasing the site in closed form before b change?", "--config=adni",
        "25 minutes a split; --config=ixi_thickness --raw_dir=COHORTS 15 minutes",
    ),
    Experiment(
        "erasure_components", "erasure_components",
        "How much of site, age and target do linear readers find after the site is erased from principal components?",
        "--config=adni", "2 minutes",
    ),
    Experiment(
        "scan_level", "scan_level", "What beats location and scale of a site, by a correction of each scan?",
        "--config=adni", "8 minutes",
    ),
    Experiment(
        "folds", "folds", "Settings of a table's config, compared by folds that never see test rows",
        "--config=german --raw_dir=UCI --set=", "1 to 3 minutes a setting",
    ),
    Experiment(
        "istn_table1", "istn_table1", "Robinson et al. 2020, Table 1: Morpho-MNIST",
        "--raw_dir=MNIST --one_way --rows=0,1", "51 minutes",
    ),
    Experiment(
        "istn_identity", "istn_identity", "What do the identity rows of Robinson et al., Table 1 depend on?",
        "--raw_dir=MNIST", "6 minutes",
    ),
    Experiment(
        "istn_brain", "istn_brain", "Robinson et al. 2020, Tables 2 and 3: sex and age from brains of two sites",
        "--directions=one_way --rows=0", "19 minutes a run",
    ),
    Experiment(
        "istn_universal", "istn_universal",
        "Does a universal ISTN harmonise scans of a scanner that it never saw?", "", "not measured yet",
    ),
    Experiment(
        "istn_oracle", "istn_oracle", "What could a perfect harmonisation of the simulated brains recover?", "",
        "15 minutes",
    ),
    Experiment(
        "image_level", "image_level", "Image-level against feature-level pooling on one cohort",
        "--shape=none --set=istn.reference=UKBB --set=istn.spacing=4", "30 minutes",
    ),
)  # fmt: skip

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}


def experiment_of(results: pathlib.Path) -> Experiment:
    """Returns the experiment that wrote a file, which has the longest name that the file's name begins with.

    Raises:
      KeyError: no experiment writes files with this name.
    """
    names = [name for name in EXPERIMENTS if f"{results.stem}_".startswith(f"{name}_")]
    return EXPERIMENTS[max(names, key=len, default=results.stem)]
