"""Estimates the time of an epoch at the size of UK Biobank on 1, 8 and 256 chips with a roofline model.

    python -m benchmarks.roofline [--output benchmarks/results/roofline.md]

The script counts the floating-point operations and the least memory traffic of one training step of stage one's volume
networks. It counts the encoder and the decoder for a volume of 182x218x182 at 1 mm, because the equivariance loss and
the rest are small in comparison. The counts are divided by the chips' published peaks, which shows the bottleneck. The
operations are compared with XLA's cost analysis of the same step, lowered for a TPU. Nothing is compiled or run, so no
accelerator is needed.
"""

import argparse
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

_SUBJECTS, SHAPE_1MM = 100_000, (182, 218, 182)
_ENCODER_CHANNELS, _ENCODER_BLOCKS = (16, 16, 32, 64), (2, 2, 2, 2)
_DECODER_CHANNELS, _LATENT = (64, 32, 16, 8), 64
_INPUT_BYTES, _ACTIVATION_BYTES = 4, 2  # prepared volumes are float32, activations bfloat16 (model.compute_dtype)


class Chip(NamedTuple):
    """Published peaks of one chip, and the number of chips per host.

    Attributes:
      flops_a_second: peak of dense bfloat16 operations.
      bytes_a_second: peak of its high-bandwidth memory.
      lanes: features that a matrix unit computes at once. Narrower layers leave some lanes idle.
      host: chips per host.
    """

    flops_a_second: float
    bytes_a_second: float
    lanes: int
    host: int


# Sources: Google Cloud TPU's system architecture pages (v5e, v5p), NVIDIA H100 SXM data sheet (without sparsity).
CHIPS = {
    "v5e": Chip(197e12, 819e9, 128, 8),
    "v5p": Chip(459e12, 2765e9, 128, 4),
    "H100": Chip(989e12, 3350e9, 8, 8),
}
_HOST_INPUT_BYTES_A_SECOND = 12.5e9  # assumes one 100 Gbit/s link per host, to a bucket or a file system


class Layer(NamedTuple):
    """A convolution or dense layer, counted for one volume.

    Attributes:
      flops: operations of its forward pass.
      products: 3 with both gradients, 2 if the gradient of the input is not needed.
      features: output features.
      inputs, outputs: numbers read and written.
      normed: numbers read by a batch norm and swish in front of the layer.
    """

    flops: int
    products: int
    features: int
    inputs: int
    outputs: int
    normed: int = 0


def step_layers(shape: Sequence[int]) -> list[Layer]:
    """Returns all layers of the encoder and the decoder for one volume."""
    return [*encoder_layers(shape), *_decoder_layers(shape)]


def encoder_layers(shape: Sequence[int]) -> list[Layer]:
    """Returns the layers of `ResNet3D`, which has a stem, a pool and residual blocks."""
    channels = _ENCODER_CHANNELS[0]
    layers = [_convolution(shape, 1, channels, taps=7, stride=2, padding=3, products=2)]
    grid = _after(_after(shape, 7, 2, 3), 3, 2, 0)
    for stage, (features, count) in enumerate(zip(_ENCODER_CHANNELS, _ENCODER_BLOCKS, strict=True)):
        for index in range(count):
            stride = 2 if stage and not index else 1
            layers.append(_convolution(grid, channels, channels, stride=stride, normed=True))
            if stride > 1 or channels != features:
                layers.append(_convolution(grid, channels, features, stride=stride))
            grid = _after(grid, 3, stride, 1)
            layers.append(_convolution(grid, channels, features, normed=True))
            channels = features
    return layers


def _decoder_layers(shape: Sequence[int]) -> list[Layer]:
    """Returns the layers of `Decoder3D`.

    A dense layer makes a coarse grid. Convolutions with 3 taps then double the grid, and the eightfold features of each
    voxel become its eight finer voxels.
    """
    doublings = len(_DECODER_CHANNELS)
    grid = [math.ceil(size / 2**doublings) for size in shape]
    coarse = math.prod(grid) * _DECODER_CHANNELS[0]
    layers = [Layer(2 * _LATENT * coarse, 3, coarse, _LATENT, coarse)]
    widths = (*_DECODER_CHANNELS, 1)
    for level, (channels, features) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        layers.append(_convolution(grid, channels, 8 * features, normed=True))
        grid = [math.ceil(size / 2 ** (doublings - level)) for size in shape]
    return layers


def flops(layers: Sequence[Layer]) -> int:
    """Counts the operations of a training step: every product of the forward pass, and its gradients."""
    return sum(layer.flops * layer.products for layer in layers)


def traffic_bytes(layers: Sequence[Layer]) -> int:
    """Counts the least memory traffic of a training step, if nothing stays on the chip between layers.

    Everything but the products is assumed to be fused. Forward, a layer reads its input and writes its output.
    Backward, it reads its input, reads the output's cotangent once per gradient, and writes the input's cotangent. A
    norm reads its input twice forward and once backward.
    """
    numbers = sum(
        2 * layer.inputs + layer.outputs * layer.products + layer.inputs * (layer.products - 2) + 3 * layer.normed
        for layer in layers
    )
    return _ACTIVATION_BYTES * numbers


def _seconds_a_volume(layers: Sequence[Layer], chip: Chip) -> tuple[float, float]:
    """Returns the seconds per volume on one chip by its matrix units and by its memory.

    Layers with fewer features than lanes use only part of a matrix unit.
    """
    compute = sum(
        layer.flops * layer.products / chip.flops_a_second / min(1, layer.features / chip.lanes) for layer in layers
    )
    return compute, traffic_bytes(layers) / chip.bytes_a_second


def xla_flops_and_bytes(shape: tuple[int, int, int]) -> tuple[float, float]:
    """Returns XLA's counts of operations and bytes for one volume of the same step.

    The step is in float32, lowered for a TPU and not fused. The counts are half of those for a batch of two.
    """
    import jax
    import jax.numpy as jnp

    from eqpool.models.resnet3d import Decoder3D, ResNet3D

    encoder, decoder = ResNet3D(_ENCODER_CHANNELS, _ENCODER_BLOCKS), Decoder3D(shape, _DECODER_CHANNELS)
    options = {"train": True, "mutable": ["batch_stats"]}

    def initialise(volume):
        return {
            "encoder": encoder.init(jax.random.key(0), volume, train=True),
            "decoder": decoder.init(jax.random.key(1), jnp.zeros((2, _LATENT)), train=True),
        }

    def loss(params, stats, volume):
        def apply(network, name, *inputs):
            return network.apply({"params": params[name], "batch_stats": stats[name]}, *inputs, **options)[0]

        return jnp.mean(jnp.square(apply(decoder, "decoder", apply(encoder, "encoder", volume)) - volume))

    volume = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = jax.eval_shape(initialise, volume)
    params, stats = ({name: own[part] for name, own in variables.items()} for part in ("params", "batch_stats"))
    lowered = jax.jit(jax.grad(loss)).trace(params, stats, volume).lower(lowering_platforms=("tpu",))
    costs = lowered.cost_analysis()
    return costs["flops"] / 2, costs["bytes accessed"] / 2


def report(by_xla: float, xla_bytes: float) -> str:
    """Returns the report as Markdown, given XLA's counts for one volume at 1 mm, by `xla_flops_and_bytes`."""
    layers = step_layers(SHAPE_1MM)
    by_hand = flops(layers)
    volume_bytes = math.prod(SHAPE_1MM) * _INPUT_BYTES
    lines = [
        "# Roofline: stage one over 100 000 subjects at 1 mm",
        "",
        "Written by `python -m benchmarks.roofline`; on paper, no accelerator has run it.",
        "",
        f"A volume: {'x'.join(map(str, SHAPE_1MM))}, {volume_bytes / 1e6:.1f} MB as float32; "
        f"{_SUBJECTS * volume_bytes / 1e12:.2f} TB an epoch.",
        f"A training step, a volume: {by_hand / 1e9:.1f} GFLOP by hand, {by_xla / 1e9:.1f} by XLA's cost analysis of "
        f"the step lowered for a TPU ({by_hand / by_xla - 1:+.1%}; the rest is norms, swish and losses).",
        f"Least memory traffic, a volume, bfloat16 activations: {traffic_bytes(layers) / 1e9:.2f} GB, "
        f"{by_hand / traffic_bytes(layers):.0f} FLOP a byte. Before fusion XLA counts {xla_bytes / 1e9:.1f} GB in "
        "float32: what fusing is worth, and the worst that memory could ask.",
        "",
        "Input asked is what the chips could use up; a host is assumed to give "
        f"{_HOST_INPUT_BYTES_A_SECOND / 1e9:.1f} GB/s. Peak share is the FLOPs done over the published peak.",
        "",
        "| chips | matrix units, ms a volume | memory, ms a volume | volumes/s | input asked GB/s | host input GB/s "
        "| binds | epoch | peak share |",
        "|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for name, chip in CHIPS.items():
        compute, memory = _seconds_a_volume(layers, chip)
        for count in (1, 8, 256):
            asked = count / max(compute, memory)
            given = math.ceil(count / chip.host) * _HOST_INPUT_BYTES_A_SECOND / volume_bytes
            rate = min(asked, given)
            binds = "input" if given < asked else "matrix units" if compute > memory else "memory"
            lines.append(
                f"| {count} {name} | {1e3 * compute:.2f} | {1e3 * memory:.2f} | {rate:,.0f} "
                f"| {asked * volume_bytes / 1e9:.1f} | {given * volume_bytes / 1e9:.1f} | {binds} "
                f"| {_SUBJECTS / rate:,.0f} s | {rate * by_hand / count / chip.flops_a_second:.1%} |"
            )
    return "\n".join(lines) + "\n"


def _convolution(
    grid: Sequence[int], channels: int, features: int, *,
    taps: int = 3, stride: int = 1, padding: int = 1, products: int = 3, normed: bool = False,
) -> Layer:  # fmt: skip
    """Returns a convolution. Only the taps inside the image are counted, and not those in its padding, as XLA does."""
    met = math.prod(_taps_met(size, taps, stride, padding) for size in grid)
    inputs, outputs = math.prod(grid) * channels, math.prod(_after(grid, taps, stride, padding)) * features
    return Layer(2 * met * channels * features, products, features, inputs, outputs, inputs if normed else 0)


def _taps_met(size: int, taps: int, stride: int, padding: int) -> int:
    starts = [stride * index - padding for index in range(_after([size], taps, stride, padding)[0])]
    return sum(min(start + taps, size) - max(start, 0) for start in starts)


def _after(grid: Sequence[int], taps: int, stride: int, padding: int) -> list[int]:
    return [(size + 2 * padding - taps) // stride + 1 for size in grid]


def main() -> None:
    """Writes the report and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/roofline.md", help="Markdown file")
    output = pathlib.Path(parser.parse_args().output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(report(*xla_flops_and_bytes(SHAPE_1MM)))
    print(output.read_text())


if __name__ == "__main__":
    main()
