"""Trains a convolutional stage on images that fit in device memory, alone or in unpaired pairs, and applies it."""

import functools

import jax
import numpy as np

from eqpool.config import ImageTrainingConfig
from eqpool.engine import data_parallel
from eqpool.engine.image_table import make_image_epoch, make_image_forward, pick_rows, rows_in_order
from eqpool.engine.pairs import Pairs, pairs_in_order, pick_pairs
from eqpool.engine.session import Columns, Session, count_steps, fit_stage, stage_keys, take_rows
from eqpool.engine.state import (
    Stage,
    TrainState,
    Variables,
    create_state,
    finish_epoch,
    keep_followers,
    with_followers,
)


def train_on_images(
    session: Session, stage: Stage, columns: Columns, train: np.ndarray, validation: np.ndarray
) -> TrainState:
    """Trains a convolutional stage on images that fit in device memory, with the arguments of `train_on_table`."""
    settings = stage.settings
    batch_size = min(settings.batch_size, len(train))
    tables = data_parallel.put_replicated([take_rows(columns, train), take_rows(columns, validation)], session.mesh)
    order = rows_in_order(len(train), batch_size, session.mesh)
    optimizer = stage.make_optimizer(count_steps(stage, train, batch_size))
    epoch_fn = make_image_epoch(stage, optimizer, order, pick_rows, session.mesh)
    return _train_images(session, stage, optimizer, epoch_fn, tables[0], tables[1], {}, train)


def train_on_pairs(session: Session, stage: Stage, source: Columns, reference: Columns, splits: Pairs) -> TrainState:
    """Trains the ISTN on two unpaired tables that fit in device memory; `splits` holds the row indices of each."""
    batch_size = min(stage.settings.batch_size, len(splits.source_train))
    tables = (take_rows(source, splits.source_train), take_rows(reference, splits.reference_train))
    held_out = (take_rows(source, splits.source_validation), take_rows(reference, splits.reference_validation))
    tables, held_out = data_parallel.put_replicated((tables, held_out), session.mesh)
    order = pairs_in_order(len(splits.source_train), len(splits.reference_train), batch_size, session.mesh)
    optimizer = stage.make_optimizer(count_steps(stage, splits.source_train, batch_size))
    epoch_fn = make_image_epoch(stage, optimizer, order, pick_pairs, session.mesh)
    beside = {"reference_inputs": held_out[1]["inputs"]}
    return _train_images(session, stage, optimizer, epoch_fn, tables, held_out[0], beside, splits.source_train)


def forward_on_images(session: Session, stage: Stage, variables, columns: Columns) -> Columns:
    """Returns a trained convolutional stage's outputs for all rows of `columns`, on the host."""
    batch_size = stage.settings.batch_size
    table = data_parallel.put_replicated(columns, session.mesh)
    return make_image_forward(stage, batch_size, session.mesh)(variables, table)


def _train_images(
    session: Session, stage: Stage, optimizer, epoch_fn, tables, held_out, beside, train: np.ndarray
) -> TrainState:
    """Runs `epoch_fn` over `tables` and validates every few epochs on `held_out` rows with the columns `beside`."""
    settings = stage.settings
    assert isinstance(settings, ImageTrainingConfig)
    forward = make_image_forward(stage, settings.batch_size, session.mesh)
    validate = jax.jit(stage.validate)
    finish = jax.jit(functools.partial(finish_epoch, stage), donate_argnums=0)
    follow = jax.jit(functools.partial(keep_followers, stage), donate_argnums=0)
    init_key, epoch_key = stage_keys(session, stage)

    def judge(variables: Variables) -> dict[str, jax.Array]:
        outputs = data_parallel.put_replicated(forward(variables, held_out), session.mesh)
        return validate(outputs, held_out | beside)

    def run_epoch(state: TrainState, epoch: int):
        state, terms = epoch_fn(state, tables, epoch_key)
        if (epoch + 1) % settings.validate_every_epochs and epoch + 1 != settings.epochs:
            return state._replace(epoch=state.epoch + 1), terms, {}
        scores = judge(state.judged)
        state = finish(state, scores)
        if stage.followers:
            beside_kept = judge(with_followers(stage, state))
            scores |= {name: beside_kept[name] for name in stage.followers}
            state = follow(state, scores)
            scores |= {f"{name}_epoch": epoch for name, epoch in state.follower_epochs.items()}
        return state, terms, scores

    state = data_parallel.put_replicated(create_state(stage, optimizer, init_key), session.mesh)
    patience = settings.patience * settings.validate_every_epochs
    return fit_stage(session, stage, state, run_epoch, settings.epochs, train, patience)
