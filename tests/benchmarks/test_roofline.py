"""The hand count against XLA's."""

import pytest

from benchmarks import roofline


@pytest.mark.parametrize(("shape", "rest"), [((24, 25, 27), 0.08), ((48, 50, 45), 0.03)])
def test_the_hand_count_is_xlas_less_norms_and_losses(shape, rest):
    by_hand = roofline.flops(roofline.step_layers(shape))
    by_xla, bytes_before_fusion = roofline.xla_flops_and_bytes(shape)
    assert (1 - rest) * by_xla < by_hand < by_xla
    assert roofline.traffic_bytes(roofline.step_layers(shape)) < bytes_before_fusion


def test_the_layers_are_those_of_the_networks():
    import jax
    import jax.numpy as jnp

    from eqpool.models.resnet3d import ResNet3D

    variables = jax.eval_shape(
        lambda: ResNet3D().init(jax.random.key(0), jnp.zeros((1, *roofline.SHAPE_1MM)), train=True)
    )
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 5]
    assert len(kernels) == len(roofline.encoder_layers(roofline.SHAPE_1MM))


def test_the_report_tells_what_binds():
    rows = [line for line in roofline.report(1e9, 1e9).splitlines() if "| 256 " in line]
    assert len(rows) == len(roofline.CHIPS) and all("input" in row for row in rows)
