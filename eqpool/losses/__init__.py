"""Losses: free functions of arrays, arrays in and a scalar out, usable under any jax transformation.

Data parallelism. Under `jax.jit` with sharded arrays there is nothing to do: a loss sees the global batch. Inside
`shard_map` or `pmap` a device sees its own rows only, and a mean over devices of a loss that couples rows is another
loss. There, pass `axis_name`: the value is then that of the global batch, the same on every device.

Gradients with `axis_name`. Differentiate with respect to replicated parameters inside the mapped function and apply
`jax.lax.pmean(grads, axis_name)`, as is customary: that is exact in `pmap`, in `shard_map` with `check_vma=False`, and
in `shard_map` with `check_vma=True`, where the gradients are summed over devices already and the pmean changes nothing.
In that last case the value that is differentiated must be equal on all devices: give `axis_name` to every term, or
pmean a term of your own before it is added.
"""
