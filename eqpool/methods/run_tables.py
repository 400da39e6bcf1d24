"""The tables of a run folder with one row for each scan: pooled.tsv and embeddings.tsv."""

import numpy as np
import pandas as pd

from eqpool.data.cohort import Cohort
from eqpool.evaluate.outputs import Embeddings
from eqpool.storage.run_folder import OVERLAP_COLUMN


def pooled_table(cohort: Cohort) -> pd.DataFrame:
    """Returns pooled.tsv: participant_id, session_id, split, site, covariates, target and described columns.

    A cohort without sessions has no session_id. Volumes also have mask_overlap, their overlap with the template's
    brain.
    """
    sites = np.array([*cohort.site_names, "n/a"])[cohort.site]
    table = pd.DataFrame({"participant_id": cohort.participant_id, "split": cohort.split, "site": sites})
    if cohort.session is not None and (cohort.session != "").any():
        table.insert(1, "session_id", np.where(cohort.session == "", "n/a", cohort.session))
    table[list(cohort.covariate_names)] = cohort.covariates
    classes = np.array([*cohort.target_classes, "n/a"])
    table[cohort.target_name] = classes[cohort.target] if cohort.target_classes else cohort.target
    if cohort.described is not None:
        table[list(cohort.described_names)] = cohort.described
    if cohort.volumes is not None and OVERLAP_COLUMN not in table:  # a column of that name in the user's table stays
        table[OVERLAP_COLUMN] = cohort.volumes.mask_overlap.round(4)
    return table


def embeddings_table(cohort: Cohort, embeddings: Embeddings) -> pd.DataFrame:
    """Returns embeddings.tsv: participant_id, session_id if there are sessions, split, site, covariates, l_*, phi_*."""
    pooled = pooled_table(cohort)
    names = ["participant_id", "session_id", "split", "site", *cohort.covariate_names]
    who = pooled[[name for name in names if name in pooled]]
    latent = pd.DataFrame(embeddings.latent).add_prefix("l_")
    phi = pd.DataFrame(embeddings.phi).add_prefix("phi_")
    return pd.concat([who, latent, phi], axis=1)
