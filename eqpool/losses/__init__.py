"""Losses: functions from arrays to a scalar, usable under any JAX transformation.

Data parallelism. Under `jax.jit` with sharded arrays a loss sees the global batch, and nothing has to be done. Inside
`shard_map` or `pmap` each device sees only its own rows. The mean over devices of a loss that couples rows differs from
the loss of the global batch, so pass `axis_name`. The value is then that of the global batch, equal on every device.

Gradients with `axis_name`. Differentiate with respect to replicated parameters inside the mapped function and apply
`jax.lax.pmean(grads, axis_name)`, as is customary. The result is exact in `pmap` and in `shard_map` with
`check_vma=False`. It is also exact in `shard_map` with `check_vma=True`, where the gradients are already summed over
devices and the pmean changes nothing. In that last case the differentiated value must be equal on all devices: give
`axis_name` to every term, or apply pmean to your own term before adding it.
"""
