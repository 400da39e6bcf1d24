"""Simulated cohorts in BIDS layout, shaped like ADNI and ADCP, with the ground truth beside every scan.

They stand in for cohorts that need a data use agreement, and contain no image of a real person. The sites, counts and
distributions of age follow Lokhande et al. 2022 (Tables 3 and 4, Figures 6 and 10). The brains are made from the MNI152
template.
"""

import dataclasses
import hashlib
import pathlib

import nibabel
import numpy as np

from eqpool.data.sources.simulated_anatomy import Anatomy, Subject
from eqpool.data.sources.simulated_scanner import TRUTH_UNIT, Scanner, coil_field, draws_of_scan, scan
from eqpool.data.volumes.inputs import Grid
from eqpool.data.volumes.parallel import in_parallel
from eqpool.storage.files import making_folder, write_json, write_text

VERSION = 2  # raise it whenever a cohort would come out different
FEWEST_A_CELL = 3
NAME = "sub-simulated"  # before a subject's number
DISEASE = "AD"
COGNITIVE_SCORE = "mmse"  # 0 to 30, as in the Mini-Mental State Examination; falls with the disease
_AD_OLDER_YEARS = 1.5


@dataclasses.dataclass(frozen=True)
class Site:
    """A site with its subjects and its scanner.

    Attributes:
      name: name in participants.tsv.
      counts: pairs of a diagnosis and its number of subjects.
      age_mean, age_deviation: years, before ages are restricted to the range.
      female_share: share of women among the subjects.
      scanner: settings of the scanner.
      age_range: lowest and highest age in years, or None for the cohort's.
    """

    name: str
    counts: tuple[tuple[str, int], ...]
    age_mean: float
    age_deviation: float
    female_share: float
    scanner: Scanner
    age_range: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class CohortSpecification:
    """A cohort to simulate.

    Attributes:
      name: name of the cohort.
      age_range: lowest and highest age in years.
      sites: sites of the cohort.
      sex_effect: size of the effect of sex on the images, 0 for none.
      equal_ages: whether ages are moved so that all sites have the same mean age.
    """

    name: str
    age_range: tuple[float, float]
    sites: tuple[Site, ...]
    sex_effect: float = 0.0
    equal_ages: bool = dataclasses.field(default=False, repr=False)  # not in the key of cohorts, which have their names


_GE = Scanner(gamma=0.88, grey_shift=0.00, bias=0.05, coil_seed=11, blur_mm=1.7, noise=0.022, gain=900.0)
_PHILIPS = Scanner(gamma=1.00, grey_shift=0.03, bias=0.06, coil_seed=12, blur_mm=1.3, noise=0.032, gain=1500.0)
_SIEMENS = Scanner(gamma=1.12, grey_shift=-0.02, bias=0.05, coil_seed=13, blur_mm=1.0, noise=0.026, gain=420.0)

ADNI = CohortSpecification(
    name="adni",
    age_range=(50.0, 95.0),
    sites=(
        Site("GE", (("AD", 44), ("CN", 78)), 71.0, 7.0, 0.48, _GE),
        Site("Philips", (("AD", 32), ("CN", 50)), 79.0, 6.0, 0.48, _PHILIPS),
        Site("Siemens", (("AD", 83), ("CN", 162)), 74.0, 8.5, 0.48, _SIEMENS),
    ),
)
# Lokhande et al. 2022, Fig. 6 right: ages are restricted until two scanners share three years at most.
_SMALL_SUPPORT = {"GE": (63.0, (50.0, 69.0)), "Siemens": (73.5, (66.0, 81.0)), "Philips": (84.0, (78.0, 95.0))}
ADNI_SMALL_SUPPORT = dataclasses.replace(
    ADNI,
    name="adni_small_support",
    sites=tuple(
        dataclasses.replace(site, age_mean=mean, age_deviation=5.0, age_range=ages)
        for site in ADNI.sites
        for mean, ages in (_SMALL_SUPPORT[site.name],)
    ),
)
# Lokhande et al. 2022, section 4: ages of the scanners vary "albeit minimally". One distribution for all of them, and
# one mean of those who were drawn, since chance alone moves the means of so few by a year.
ADNI_MATCHED = dataclasses.replace(
    ADNI,
    name="adni_matched",
    equal_ages=True,
    sites=tuple(dataclasses.replace(site, age_mean=74.5, age_deviation=7.5) for site in ADNI.sites),
)
ADCP = CohortSpecification(
    name="adcp",
    age_range=(55.0, 90.0),
    sites=(
        Site("site1", (("AD", 10), ("Control", 39)), 67.0, 6.5, 29 / 49, _GE),
        Site("site2", (("AD", 10), ("Control", 33)), 73.0, 7.0, 30 / 43, _PHILIPS),
        Site("site3", (("AD", 5), ("Control", 19)), 78.0, 6.0, 14 / 24, _SIEMENS),
    ),
)
# Robinson et al. 2020, section 3.2: two sites with as many men as women. Its two tasks use different age ranges.
_BIOBANK = Scanner(gamma=0.85, grey_shift=-0.03, bias=0.05, coil_seed=14, blur_mm=1.6, noise=0.022, gain=900.0)
_CAMBRIDGE = Scanner(gamma=1.15, grey_shift=0.03, bias=0.06, coil_seed=15, blur_mm=1.0, noise=0.030, gain=420.0)
_UKBB = Site("UKBB", (("Control", 450),), 59.5, 8.0, 0.5, _BIOBANK, age_range=(48.0, 71.0))
_CAMCAN = Site("CamCAN", (("Control", 450),), 57.9, 18.0, 0.5, _CAMBRIDGE, age_range=(30.0, 87.0))
BRAIN_SEX = CohortSpecification("brain_sex", (30.0, 87.0), (_UKBB, _CAMCAN), sex_effect=1.0)
BRAIN_AGE = CohortSpecification(
    "brain_age",
    (48.0, 71.0),
    (_UKBB, dataclasses.replace(_CAMCAN, age_mean=59.5, age_deviation=8.0, age_range=None)),
    sex_effect=1.0,
)
SPECIFICATIONS = {each.name: each for each in (ADNI, ADNI_SMALL_SUPPORT, ADNI_MATCHED, ADCP, BRAIN_SEX, BRAIN_AGE)}


@dataclasses.dataclass(frozen=True)
class _Person:
    participant_id: str
    number: int
    site: Site
    diagnosis: str
    age: float
    sex: str
    brain_age: float
    severity: float
    maleness: float
    score: int


def build_simulated_cohort(
    folder: pathlib.Path,
    specification: CohortSpecification,
    grid: Grid,
    *,
    seed: int = 0,
    fraction: float = 1.0,
    workers: int = 0,
    progress: bool = True,
) -> pathlib.Path:
    """Writes a simulated cohort, unless it is written already.

    The layout is BIDS: participants.tsv (participant_id, site, age, sex, dx, mmse) and one T1w image for each subject.
    The folder derivatives/truth holds the same brains without a scanner, and the effect maps of age and disease. The
    result depends on the arguments alone, and not on the number of workers. The cohort's folder appears under its name
    only when it is complete.

    Args:
      folder: folder of all cohorts, in which the cohort gets a folder of its own.
      specification: sites, counts and scanners.
      grid: voxel grid of the images.
      seed: seed of every subject.
      fraction: share of each site x diagnosis cell that is built, at least three subjects of each.
      workers: number of threads, 0 for one a core.
      progress: whether to show a bar on stderr if that is a terminal.

    Returns:
      The cohort's folder.
    """
    final = pathlib.Path(folder) / f"{specification.name}-simulated-{_key(specification, grid, seed, fraction)}"
    with making_folder(final) as partial:
        if partial is not None:
            _write(partial, specification, grid, seed, fraction, workers, progress)
    return final


def scanner_free_path(image: pathlib.Path) -> pathlib.Path:
    """Returns the path of the ground truth of a simulated image: the same brain without a scanner."""
    name = image.name.replace("_T1w", "_desc-scannerfree_T1w")
    return _truth(image.parents[2]) / image.parents[1].name / "anat" / name


def effect_path(image: pathlib.Path, effect: str) -> pathlib.Path:
    """Returns the path of a true map of an image's cohort: age_effect, age_mask, disease_effect or disease_mask."""
    return _truth(image.parents[2]) / f"{effect}.nii.gz"


def _write(
    folder: pathlib.Path,
    specification: CohortSpecification,
    grid: Grid,
    seed: int,
    fraction: float,
    workers: int,
    progress: bool,
) -> None:
    people = _people(specification, seed, fraction)
    anatomy = Anatomy(grid)
    coils = {site.name: coil_field(anatomy, site.scanner) for site in specification.sites}

    def make(person: _Person) -> None:
        seeds = (seed, person.number, 1)
        subject = Subject(person.brain_age, person.severity, seeds, maleness=person.maleness)
        truth = anatomy.brain(subject)
        image = scan(truth, anatomy, person.site.scanner, coils[person.site.name], draws_of_scan(seed, person.number))
        name = person.participant_id
        _save(image, grid, folder / name / "anat" / f"{name}_T1w.nii.gz")
        _save(
            TRUTH_UNIT * anatomy.on_grid(truth), grid, scanner_free_path(folder / name / "anat" / f"{name}_T1w.nii.gz")
        )

    label = f"Simulating {specification.name}"
    with in_parallel(make, people, workers=workers, progress=progress, label=label, total=len(people)) as made:
        for _ in made:
            pass
    _save_effects(anatomy, _truth(folder))
    _save_tables(folder, specification, people)


def _people(specification: CohortSpecification, seed: int, fraction: float) -> list[_Person]:
    """Draws the subjects. A subject's draws depend on their number in the full cohort and not on the fraction."""
    people: list[_Person] = []
    number = 0
    for site in specification.sites:
        for diagnosis, count in site.counts:
            built = min(count, max(FEWEST_A_CELL, round(fraction * count)))
            females = round(site.female_share * count)
            sexes = np.random.default_rng((seed, number, 0)).permutation(np.arange(count) < females)
            for index in range(count):
                number += 1
                if index < built:
                    sex = "F" if sexes[index] else "M"
                    people.append(_person(specification, site, diagnosis, sex, number, seed))
    return _with_equal_ages(people) if specification.equal_ages else people


def _with_equal_ages(people: list[_Person]) -> list[_Person]:
    """Moves the ages of each site by a constant, so that all sites have the mean age of all people."""

    def mean_age(some: list[_Person]) -> float:
        return float(np.mean([person.age for person in some]))

    sites = {person.site.name for person in people}
    moved = {name: mean_age(people) - mean_age([one for one in people if one.site.name == name]) for name in sites}
    return [
        dataclasses.replace(
            person,
            age=float(np.round(person.age + moved[person.site.name], 1)),
            brain_age=person.brain_age + moved[person.site.name],
        )
        for person in people
    ]


def _person(
    specification: CohortSpecification, site: Site, diagnosis: str, sex: str, number: int, seed: int
) -> _Person:
    random = np.random.default_rng((seed, number, 0))
    ill = diagnosis == DISEASE
    mean = site.age_mean + (_AD_OLDER_YEARS if ill else 0.0)
    low, high = site.age_range or specification.age_range
    age = low - 1
    while not low <= age <= high:
        age = float(np.round(mean + site.age_deviation * random.standard_normal(), 1))
    brain_age = age + 5.0 * random.standard_normal()
    severity = (1.0 if ill else 0.0) + 0.4 * random.standard_normal()
    return _Person(
        participant_id=f"{NAME}{number:04d}",
        number=number,
        site=site,
        diagnosis=diagnosis,
        age=age,
        sex=sex,
        brain_age=brain_age,
        severity=severity,
        maleness=specification.sex_effect * ((1.0 if sex == "M" else -1.0) + 0.5 * random.standard_normal()),
        score=int(np.clip(np.rint(29.0 - 5.5 * severity + 1.2 * random.standard_normal()), 0, 30)),
    )


def _save_effects(anatomy: Anatomy, folder: pathlib.Path) -> None:
    """Writes the effects of ten years and of the disease on the average subject, and masks of the largest effects."""

    def average(brain_age: float, severity: float) -> np.ndarray:
        return anatomy.on_grid(anatomy.brain(Subject(brain_age, severity, seed=(0,), individuality=0.0)))

    effects = {
        "age": (average(80.0, 0.0) - average(60.0, 0.0)) / 2,
        "disease": average(70.0, 1.0) - average(70.0, 0.0),
    }
    for name, effect in effects.items():
        _save(TRUTH_UNIT * effect, anatomy.grid, folder / f"{name}_effect.nii.gz")
        _save(np.abs(effect) > 0.25 * np.abs(effect).max(), anatomy.grid, folder / f"{name}_mask.nii.gz")


def _save_tables(folder: pathlib.Path, specification: CohortSpecification, people: list[_Person]) -> None:
    rows = [f"participant_id\tsite\tage\tsex\tdx\t{COGNITIVE_SCORE}"]
    rows += [f"{p.participant_id}\t{p.site.name}\t{p.age:.1f}\t{p.sex}\t{p.diagnosis}\t{p.score}" for p in people]
    write_text(folder / "participants.tsv", "\n".join(rows) + "\n")
    truth = {
        "Name": f"Scanner-free truth of the simulated {specification.name} cohort",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "eqpool.data.sources.simulated", "Version": str(VERSION)}],
    }
    write_json(_truth(folder) / "dataset_description.json", truth)
    description = {
        "Name": f"SIMULATED cohort shaped like {specification.name.upper()}: no real person's data",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "eqpool.data.sources.simulated", "Version": str(VERSION)}],
    }
    write_json(folder / "dataset_description.json", description)


def _truth(folder: pathlib.Path) -> pathlib.Path:
    return folder / "derivatives" / "truth"


def _save(volume: np.ndarray, grid: Grid, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.rint(volume).astype(np.int16), grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code="mni")
    image.set_qform(grid.affine, code="mni")
    nibabel.save(image, path)


def _key(specification: CohortSpecification, grid: Grid, seed: int, fraction: float) -> str:
    text = repr((VERSION, specification, grid.shape, grid.affine.tolist(), seed, fraction))
    return hashlib.sha256(text.encode() + grid.mask.tobytes()).hexdigest()[:16]
