"""report.html: one file with its pictures inside."""

import base64
import pathlib

import jinja2

from eqpool.files import write_text
from eqpool.report import figures
from eqpool.report.workfolder import WorkFolder, read_workfolder
from eqpool.summary import METRIC_READINGS, format_metric

CAPTIONS = {
    "covariate_by_site": "Who was pooled: density of the covariate at each site.",
    "latent_maps": "Held-out rows before and after pooling (t-SNE): sites should mix, the covariate's trend stay.",
    "tau_by_group": "Held-out rows by covariate (t-SNE): tau should order them, whatever the scanner.",
    "sample_images": "Held-out scans by scanner and covariate: the input, the input plus the change, and the change.",
    "t_maps": "Where the target shows: voxels that pass FDR, on decodes by networks that never saw the volume.",
    "site_maps": "Where the scanner shows: partial R^2 of the site beyond covariates and target.",
    "transformations": "Held-out subjects on the way to the reference: appearance, shape, and what changed.",
    "training_curves": "Training loss and validation score; the epoch with the lowest validation score was kept.",
}


def write_report(folder: pathlib.Path) -> pathlib.Path:
    """Draws the figures of a finished work directory and writes its report.html; returns the page's path.

    Raises:
      InputError: if the run is not finished.
    """
    work = read_workfolder(folder)
    images = figures.save(figures.draw_all(work), folder / "figures")
    path = folder / "report.html"
    write_text(path, _render(work, images))
    return path


def _render(work: WorkFolder, images: list[pathlib.Path]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eqpool.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    metrics = work.results["metrics"]
    rows = [
        {"label": label, "value": format_metric(metrics, name), "reading": reading.format(**metrics)}
        for name, label, reading in METRIC_READINGS
        if metrics.get(name) is not None
    ]
    pictures = [
        {"source": base64.b64encode(path.read_bytes()).decode(), "caption": CAPTIONS[path.stem]} for path in images
    ]
    return environment.get_template("page.html").render(
        name=work.config["name"], results=work.results, rows=rows, pictures=pictures
    )
