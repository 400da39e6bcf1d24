import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import affine_transform, distance_transform_edt
from skimage.measure import euler_number

from eqpool.commands import measure_digits
from eqpool.data.cohort import Scaling
from eqpool.data.sources import morpho_digits, morpho_mnist
from eqpool.data.sources.morpho_digits import CLASSES, DOMAINS, draw_digit, random_digits
from eqpool.data.sources.morpho_mnist import load_morpho_mnist, measure_domain
from eqpool.data.sources.morphometry import enlarge, measure
from eqpool.data.sources.perturbations import fracture, swell
from eqpool.data.volumes.batches import volume_batches
from eqpool.errors import InputError
from tests.data.sources.strokes import draw, idx, line, mnist_like, ring, seven, write_mnist, zigzag

SHAPES = [line, ring, seven, zigzag]
every_domain = pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def one(shape, domain, kind, seed=0):
    return draw_digit(shape(), domain, kind, np.random.default_rng(seed))


def topology(image):
    """Pieces less holes."""
    enlarged = enlarge(image)
    return euler_number(enlarged > enlarged.max() / 2, connectivity=2)


# Drawing


def steepest_shear(domain) -> float:
    return math.tan(math.radians(domain.slant_degrees[1]))


def check_thickness(found: float, domain, tolerance: float) -> None:
    """Shearing an image leaves what is horizontal as thick as it was, and an upright line cos(slant) as thick."""
    least = math.cos(math.radians(domain.slant_degrees[1]))
    assert (1 - tolerance) * least < found / domain.thickness_pixels < 1 + tolerance


@every_domain
@every_shape
def test_healthy_digits_have_the_domain_s_thickness_and_slant(domain, shape):
    for seed in range(3):
        found = measure(one(shape, domain, "healthy", seed))
        check_thickness(found.thickness_pixels, domain, 0.06)
        low, high = domain.slant_degrees
        assert low - 0.5 < np.degrees(found.slant_radians) < high + 0.5


@every_domain
def test_a_digit_s_own_slant_and_thickness_are_taken_out(domain):
    upright = measure(draw_digit(line(0, thickness=3), domain, "healthy", np.random.default_rng(0)))
    for own in (line(-15, thickness=2), line(30, thickness=4)):
        found = measure(draw_digit(own, domain, "healthy", np.random.default_rng(0)))
        assert found.slant_radians == pytest.approx(upright.slant_radians, abs=0.01)
        assert found.thickness_pixels == pytest.approx(
            upright.thickness_pixels, rel=0.07 if steepest_shear(domain) else 0.05
        )


@every_domain
@every_shape
def test_a_fracture_cuts_one_stroke_once(domain, shape):
    for seed in range(6):
        healthy, fractured = one(shape, domain, "healthy", seed), one(shape, domain, "fractured", seed)
        assert topology(fractured) == topology(healthy) + 1
        lost = healthy.astype(int) - fractured
        assert lost.min() >= 0 and lost.max() > 180
        rows, columns = np.nonzero(lost)
        assert max(np.ptp(rows), np.ptp(columns)) <= domain.thickness_pixels + 5
        assert lost.sum() / 255 < 2.2 * domain.thickness_pixels + 3


@every_domain
def test_a_fracture_keeps_away_from_the_tips(domain):
    for seed in range(10):
        healthy, fractured = one(line, domain, "healthy", seed), one(line, domain, "fractured", seed)
        inked = np.flatnonzero(healthy.max(axis=1) > 127)
        cut = np.flatnonzero((healthy.astype(int) - fractured).max(axis=1) > 60)
        assert inked[0] + 2 <= cut.min() and cut.max() <= inked[-1] - 2


def test_perturbed_places_keep_away_from_a_blot():
    blotted = np.maximum(draw((14, 4), (14, 24)), draw((14, 18), (14, 18.01), thickness=10))
    inside = enlarge(blotted) > 127
    level = np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside))
    for position in np.linspace(0, 0.999, 15):
        cut = np.argwhere(inside & (fracture(level, position, gap=6.0) < 0)) / 4
        assert not 14 < cut[:, 0].mean() < 22
        grown = np.argwhere(~inside & (swell(level, position, strength=3.0, reach=20.0) > 0)) / 4
        assert np.any((grown[:, 0] < 13.5) | (grown[:, 0] > 22.5))


@every_domain
@every_shape
def test_a_swelling_is_local_and_large(domain, shape):
    for seed in range(6):
        healthy, swollen = one(shape, domain, "healthy", seed), one(shape, domain, "swollen", seed)
        changed = np.argwhere(healthy != swollen)
        assert np.ptp(changed, axis=0).max() <= 15 * (1 + steepest_shear(domain))
        assert swollen.sum() / 255.0 > healthy.sum() / 255.0 + 12
        widest = [_widest(image) for image in (healthy, swollen)]
        assert widest[1] > widest[0] + (0.8 if steepest_shear(domain) else 1.5)


def _widest(image):
    enlarged = enlarge(image)
    return 2 * distance_transform_edt(enlarged > enlarged.max() / 2).max() / 4


@every_domain
def test_large_digits_are_fitted_into_the_frame(domain):
    wide = draw((3, 4), (25, 4), (4, 24), (25, 24))
    drawn = draw_digit(wide, domain, "healthy", np.random.default_rng(0))
    inked = np.argwhere(drawn > 127)
    assert inked.min() >= 1 and inked.max() <= 26
    check_thickness(measure(drawn).thickness_pixels, domain, 0.1)


def test_a_slanted_digit_is_the_upright_one_sheared():
    """Disease and all, as the paper makes its domains: shearing back gives the upright image, but for interpolation."""
    for kind in CLASSES:
        upright, slanted = (one(seven, DOMAINS[name], kind, 3).astype(float) for name in ("thick", "thick_slanted"))
        slants = [measure(image.astype(np.uint8)).slant_radians for image in (upright, slanted)]
        shear = math.tan(slants[1]) - math.tan(slants[0])
        back = np.array([[1.0, 0.0], [-shear, 1.0]])
        middle = np.full(2, 13.5)
        restored = affine_transform(slanted, back, middle - back @ middle, order=1)
        assert np.abs(restored - upright).mean() < 0.3 * np.abs(slanted - upright).mean()


def test_a_swelling_stays_in_the_frame():
    tall = draw((14, 3), (14, 25))
    for seed in range(12):
        swollen = draw_digit(tall, DOMAINS["thick"], "swollen", np.random.default_rng(seed))
        assert swollen[[0, -1]].max() < 128 and swollen[:, [0, -1]].max() < 128


def test_thinning_does_not_break_a_stroke_at_its_thinnest():
    uneven = np.maximum(draw((14, 5), (14, 12), thickness=6), draw((14, 12), (14, 23), thickness=1.8))
    for name in ("thin", "slanted"):
        drawn = draw_digit(uneven, DOMAINS[name], "healthy", np.random.default_rng(0))
        inked = drawn.max(axis=1) > 127
        assert inked[np.flatnonzero(inked)[0] :].sum() >= 16 and topology(drawn) == 1


def test_a_dot_can_be_drawn():
    dot = draw((14, 14), (14, 14))
    for domain in DOMAINS.values():
        for kind in CLASSES:
            assert draw_digit(dot, domain, kind, np.random.default_rng(0)).any()


def test_a_digit_depends_on_seed_file_and_index_alone():
    images, thin = mnist_like(8), DOMAINS["thin"]
    everything, kinds = random_digits(images, np.arange(8), "train", thin, 5)
    some, some_kinds = random_digits(images[[6, 2]], np.array([6, 2]), "train", thin, 5)
    np.testing.assert_array_equal(some, everything[[6, 2]])
    np.testing.assert_array_equal(some_kinds, kinds[[6, 2]])
    for origin, seed in (("test", 5), ("train", 6)):
        assert not np.array_equal(random_digits(images, np.arange(8), origin, thin, seed)[0], everything)


def test_a_digit_has_the_same_class_in_every_domain():
    images, rows = mnist_like(8), np.arange(8)
    kinds = [random_digits(images, rows, "train", domain, 1)[1].tolist() for domain in DOMAINS.values()]
    assert all(of_domain == kinds[0] for of_domain in kinds)


def test_classes_are_equally_likely(monkeypatch):
    monkeypatch.setattr(morpho_digits, "draw_digit", lambda image, *rest: image)
    count = 3000
    kinds = random_digits(np.zeros((count, 1, 1)), np.arange(count), "train", DOMAINS["thin"], 0)[1]
    deviation = np.sqrt(count * 2 / 9)
    assert np.abs(np.bincount(kinds, minlength=3) - count / 3).max() < 3 * deviation


def test_processes_draw_the_same():
    count = morpho_mnist._PIECES_A_PROCESS + 1  # enough for two
    images, rows = mnist_like(count), np.arange(count)
    pieces = [(images[part], part, "train", DOMAINS["thick"], 0) for part in np.split(rows, count)]
    with morpho_mnist._in_processes(random_digits, pieces, 2, False, "") as parallel:
        together = [np.concatenate(part) for part in zip(*parallel, strict=True)]
    for found, expected in zip(together, random_digits(images, rows, "train", DOMAINS["thick"], 0), strict=True):
        np.testing.assert_array_equal(found, expected)


# The cohort


@pytest.fixture
def raw(tmp_path, monkeypatch):
    train, test = idx(mnist_like(40)), idx(mnist_like(10, seed=1))
    return write_mnist(tmp_path / "raw", monkeypatch, train=train, test=test)


def load(raw, tmp_path, **changes):
    options = {"source": "thin", "target": "thick_slanted", "train_count": 36, "test_count": 6, "seed": 4} | changes
    return load_morpho_mnist(str(raw), tmp_path / "cache", **options, workers=1, progress=False)


def test_a_cohort_in_miniature(raw, tmp_path):
    cohort = load(raw, tmp_path)
    assert cohort.inputs.shape == (48, 28, 28) and cohort.inputs.dtype == np.float32
    assert cohort.inputs.min() == -1 and cohort.inputs.max() == 1
    assert cohort.site_names == ("thin", "thick_slanted") and cohort.site.tolist() == [0] * 24 + [1] * 24
    assert cohort.covariates.shape == (48, 0) and cohort.covariate_names == () and cohort.covariates.dtype == np.float64
    assert cohort.target_classes == CLASSES and cohort.target.dtype == np.int32
    assert cohort.simulated and cohort.volumes is None
    for site in (0, 1):
        split = cohort.split[cohort.site == site].tolist()
        assert [split.count(name) for name in ("train", "validation", "test")] == [16, 2, 6]
    assert any(note.startswith("thin: 16 train, 2 validation, 6 test; ") for note in cohort.notes)


def test_training_is_unpaired_and_the_test_is_paired(raw, tmp_path):
    cohort = load(raw, tmp_path)
    testing = cohort.split == "test"
    of_site = [set(cohort.participant_id[~testing & (cohort.site == site)]) for site in (0, 1)]
    assert len(of_site[0]) == len(of_site[1]) == 18 and not of_site[0] & of_site[1]
    assert all(name.startswith("train-000") for name in of_site[0])
    source, target = (np.flatnonzero(testing & (cohort.site == site)) for site in (0, 1))
    assert cohort.participant_id[source].tolist() == cohort.participant_id[target].tolist()
    assert cohort.target[source].tolist() == cohort.target[target].tolist()
    assert not np.array_equal(cohort.inputs[source], cohort.inputs[target])


def test_each_image_is_of_its_digit_and_domain(raw, tmp_path):
    cohort = load(raw, tmp_path)
    images = {"train": mnist_like(40), "test": mnist_like(10, seed=1)}
    for row in range(0, 48, 5):
        origin, index = cohort.participant_id[row].split("-")
        domain = DOMAINS[cohort.site_names[cohort.site[row]]]
        drawn, kinds = random_digits(images[origin][[int(index)]], np.array([int(index)]), origin, domain, 4)
        np.testing.assert_allclose(cohort.inputs[row], drawn[0] / 127.5 - 1, atol=1e-6)
        assert cohort.target[row] == kinds[0]


def test_drawn_once_and_kept_apart_by_settings(raw, tmp_path, monkeypatch):
    first = load(raw, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(morpho_mnist, "random_digits", None)
        np.testing.assert_array_equal(load(raw, tmp_path).inputs, first.inputs)
        for changes in ({"seed": 5}, {"train_count": 34}, {"test_count": 7}, {"target": "thick"}):
            with pytest.raises(TypeError):
                load(raw, tmp_path, **changes)
    other = load(raw, tmp_path, seed=5)
    assert other.participant_id.tolist() != first.participant_id.tolist()


def test_either_direction(raw, tmp_path):
    there, back = load(raw, tmp_path), load(raw, tmp_path, source="thick_slanted", target="thin")
    assert back.site_names == ("thick_slanted", "thin")
    # The source always has the first half, so the two runs see different digits of a domain.
    assert there.participant_id.tolist() == back.participant_id.tolist()
    assert not np.array_equal(there.inputs, back.inputs)


def test_no_covariates_pass_through_the_data_s_rooms(raw, tmp_path):
    cohort = load(raw, tmp_path)
    columns = Scaling.fit(cohort).columns(cohort)
    assert columns["covariate"].shape == (48, 0)
    batch = next(volume_batches(cohort.inputs, cohort.rows("train"), batch_size=5, columns=columns))
    assert batch["inputs"].shape == (5, 28, 28) and batch["covariate"].shape == (5, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "fat"}, 'source domain "fat", expected one of thin, thick, slanted, thick_slanted'),
        ({"target": ""}, 'target domain "", expected one of thin, '),
        ({"target": "thin"}, 'both "thin", expected two different'),
        ({"train_count": 41}, "train_count = 41, expected 4 to 40, .* train-images-idx3-ubyte.gz"),
        ({"train_count": 3}, "train_count = 3, expected 4 to 40"),
        ({"test_count": 11}, "test_count = 11, expected 1 to 10, .* t10k-images-idx3-ubyte.gz"),
        ({"test_count": 0}, "test_count = 0, expected 1 to 10"),
    ],
)
def test_bad_settings(raw, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load(raw, tmp_path, **changes)


@pytest.mark.parametrize(
    "content",
    [
        idx(mnist_like(40))[:-1],
        idx(mnist_like(40)) + b"\0",
        idx(mnist_like(40))[:9],
        idx(mnist_like(4)[:, :, :27]),
        b"\0\0\x08\x01" + idx(mnist_like(4))[4:],
        b"",
    ],
    ids=["cut", "too long", "no header", "27 columns", "labels", "empty"],
)
def test_not_mnist_images(raw, tmp_path, monkeypatch, content):
    write_mnist(raw, monkeypatch, train=content)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: \d+ bytes .* expected images of 28 x 28"):
        load(raw, tmp_path)


def test_an_altered_file_is_refused_even_when_drawn_before(raw, tmp_path):
    load(raw, tmp_path)
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz: .*expected a whole gzip file"):
        load(raw, tmp_path)


def test_the_command_prints_what_it_measures(raw, capsys):
    assert measure_digits.main([f"--raw_dir={raw}", "--count=4", "--workers=1"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| t")]
    assert [row[1].strip() for row in rows] == ["thin", "thick", "thick_slanted"]
    assert float(rows[0][2].split()[0]) == pytest.approx(2.5, abs=0.15)
    assert float(rows[2][4].split()[0]) == pytest.approx(22.5, abs=2.5)


@pytest.mark.parametrize("option", ["--count=0", "--count=41", "--raw_dir=nowhere"])
def test_the_command_refuses_in_one_line(raw, capsys, option):
    assert measure_digits.main([f"--raw_dir={raw}", option]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_tensorflow():
    code = "import sys, eqpool.data.sources.morpho_mnist; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# MNIST itself


@every_domain
def test_domains_as_measured(shared_data, tmp_path, domain):
    images = morpho_mnist.read_mnist(str(shared_data / "mnist"), tmp_path)["train"][:200]
    thickness, slant = measure_domain(images, domain, workers=1, progress=False).T
    check_thickness(thickness.mean(), domain, 0.02)
    assert abs(slant.mean() - np.mean(domain.slant_degrees)) < 0.5
    assert thickness.std() < 0.1 * domain.thickness_pixels
    assert slant.std() < 1.7  # 1.44 of the uniform range


def test_real_digits_are_cut_and_swollen(shared_data, tmp_path):
    images = morpho_mnist.read_mnist(str(shared_data / "mnist"), tmp_path)["train"][:60]
    for domain in (DOMAINS["thin"], DOMAINS["thick_slanted"]):
        drawn = {
            kind: [draw_digit(image, domain, kind, np.random.default_rng(row)) for row, image in enumerate(images)]
            for kind in CLASSES
        }
        pairs = list(zip(drawn["healthy"], drawn["fractured"], strict=True))
        cut = [topology(fractured) == topology(healthy) + 1 for healthy, fractured in pairs]
        assert np.mean(cut) > 0.9  # where loops have run full, a cut can end in one
        assert all((healthy.astype(int) - fractured).max() > 128 for healthy, fractured in pairs)
        grown = [s.sum() / 255 - h.sum() / 255 for h, s in zip(drawn["healthy"], drawn["swollen"], strict=True)]
        assert min(grown) > 4 and np.mean(grown) > 25
