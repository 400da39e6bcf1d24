"""Computes Adv, the site classification accuracy of a network trained from scratch on frozen features.

The metric is defined in Lokhande et al. 2022, appendix A.2.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqpool.losses.task import task_loss
from eqpool.models.adversary import Adversary
from eqpool.ops.arguments import check_count, check_positive, check_shape
from eqpool.ops.finite import check_finite

# Held-out features are clipped at this many deviations from the mean, since float32 would overflow in the network.
_FARTHEST = 1e6


def adversary_scores(
    train_features: np.ndarray,
    train_site: np.ndarray,
    test_features: np.ndarray,
    *,
    num_sites: int,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seeds: int,
) -> np.ndarray:
    """Predicts the site probabilities of held-out rows, with one adversary per seed, trained on the training rows.

    Args:
      train_features: (N, F) frozen features. They are standardised here with their own mean and deviation.
      train_site: (N,) site indices, all known.
      test_features: (M, F) features, standardised with the statistics of the training rows.
      num_sites: number of classes.
      epochs, learning_rate, batch_size: settings of Adam. The rate decays to zero along a cosine, so training
        converges.
      seeds: number of adversaries. They differ in initial weights and order of rows, and are trained in parallel.

    Returns:
      (seeds, M, num_sites) float32 probabilities.

    Raises:
      ValueError: features are not finite, shapes do not match, there are fewer than two training rows, or a count such
        as `epochs` is below 1.
    """
    check_shape("train_features", train_features, ("N", "F"))
    check_shape("train_site", train_site, train_features.shape[:1], ", one entry for each row")
    check_shape("test_features", test_features, ("N", train_features.shape[1]))
    check_positive("learning_rate", learning_rate)
    for name, count in (("num_sites", num_sites), ("epochs", epochs), ("batch_size", batch_size), ("seeds", seeds)):
        check_count(name, count)
    check_finite("train_features", train_features)
    check_finite("test_features", test_features)
    if len(train_features) < 2:
        raise ValueError(f"train_features has shape {train_features.shape}, expected at least two rows")
    train_features = train_features.astype(np.float64)  # the squares may overflow float32
    mean, deviation = train_features.mean(axis=0), train_features.std(axis=0)
    deviation = np.where(deviation > 1e-7 * np.abs(mean), deviation, 1)  # a constant feature, up to rounding
    train, test = (
        jnp.asarray(np.clip((features.astype(np.float64) - mean) / deviation, -_FARTHEST, _FARTHEST), jnp.float32)
        for features in (train_features, test_features)
    )
    logits = _train_and_apply(
        train,
        jnp.asarray(train_site, jnp.int32),
        test,
        jax.random.split(jax.random.key(0), seeds),
        num_sites=num_sites,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=min(batch_size, len(train)),
    )
    return np.asarray(jax.nn.softmax(logits))


@functools.partial(jax.jit, static_argnames=("num_sites", "epochs", "learning_rate", "batch_size"))
def _train_and_apply(features, site, test_features, keys, **settings):
    return jax.vmap(lambda key: _one_adversary(features, site, test_features, key, **settings))(keys)


def _one_adversary(features, site, test_features, key, *, num_sites, epochs, learning_rate, batch_size):
    model = Adversary(num_sites)
    # An incomplete last batch is dropped, since few rows make poor batch statistics. Each epoch draws a new order.
    steps = features.shape[0] // batch_size
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, epochs * steps))
    init_key, order_key = jax.random.split(key)
    variables = model.init(init_key, features[:2], train=False)

    def loss(params, batch_stats, rows):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, features[rows], train=True, mutable=["batch_stats"]
        )
        return task_loss(logits, site[rows], num_classes=num_sites), updated["batch_stats"]

    def step(carry, rows):
        params, batch_stats, optimizer_state = carry
        gradient, batch_stats = jax.grad(loss, has_aux=True)(params, batch_stats, rows)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (optax.apply_updates(params, updates), batch_stats, optimizer_state), None

    def epoch(carry, epoch_key):
        order = jax.random.permutation(epoch_key, features.shape[0])[: steps * batch_size]
        return jax.lax.scan(step, carry, order.reshape(steps, batch_size))

    start = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
    (params, batch_stats, _), _ = jax.lax.scan(epoch, start, jax.random.split(order_key, epochs))
    return model.apply({"params": params, "batch_stats": batch_stats}, test_features, train=False)
