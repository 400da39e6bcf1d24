"""Our equivariance loss with its gradient, in O(N), and as the reference over pairs."""

from benchmarks import inputs
from benchmarks.ours import common
from eqpool import equivariance_loss, equivariance_loss_pairwise
from eqpool.geometry import so


def loss(rows: int, n: int, form: str = "linear") -> inputs.Work:
    """Returns the work of the loss over `rows` rotations of n dimensions.

    `form` "reference" is our loss over pairs. All other values, between which the PyTorch side distinguishes, are our
    O(N) loss.
    """
    chosen = equivariance_loss_pairwise if form == "reference" else equivariance_loss
    covariate, generator = inputs.uniform(rows), so.generator(n, rotation_range=3.0)
    return common.function(
        lambda tau: chosen(tau, covariate, generator=generator), inputs.rotations(rows, n), gradient=True
    )
