import inspect
import math
import operator
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch_geometric.data import HeteroData
from torch_geometric.utils import coalesce
from tqdm import tqdm

from mrdib_pyg.distributed import check_processes, check_repeated, first, is_first, shard
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.evaluation.full_ranking import METRICS
from mrdib_pyg.files import lock_folder
from mrdib_pyg.interactions import TRAIN_EDGE, held_out_edges
from mrdib_pyg.nn.models import Recommender, Triplets
from mrdib_pyg.nn.models._drop_modalities import check_ratio, drop_modalities
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.training.checkpoint import RunState
from mrdib_pyg.training.step import MRDIB_TERMS, LossWeights, TrainStep, make_train_step


def epoch_generator(
    seed: int, epoch: int, device: torch.device | str = 'cpu', stream: int = 0
) -> torch.Generator:
    r"""Returns a generator whose state depends on the seed, the epoch and the stream alone, so that
    a resumed run draws what an unbroken one would have drawn.
    """
    # SeedSequence mixes the numbers: neighbouring epochs must not share a state.
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    generator.manual_seed((int(state[0]) << 31) ^ int(state[1]))
    return generator


SHUFFLE, NEGATIVES, GRAPH, NOISE = range(4)  # streams of random numbers within an epoch


class FitResult(NamedTuple):
    r"""What :func:`fit` has done.

    Args:
        best_epoch (int): The epoch whose parameters the model now has, from 1.
        best_metric (float): Its validation metric; NaN without validation edges.
        history (List[Dict[str, Any]]): One entry per epoch.
    """

    best_epoch: int
    best_metric: float
    history: list[dict[str, Any]]


def fit(
    model: Recommender,
    data: HeteroData,
    *,
    epochs: int = 500,
    batch_size: int = 2048,
    lr: float = 1e-3,
    weights: Mapping[str, float] | None = None,
    critic_steps: int = 0,
    modality_dropout: float = 0.0,
    seed: int = 0,
    patience: int = 20,
    monitor: str = 'recall@20',
    compile: bool = False,
    out: None | str | Path = None,
    resume: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
    mesh: DeviceMesh | None = None,
) -> FitResult:
    r"""Trains a recommender by Adam on triplets: a user, a positive from the user's training edges,
    and a freshly sampled negative. Stops early on the validation edges.

    The model ends with the parameters of its best epoch. All draws depend on :obj:`seed` and the
    epoch alone: on the same CPU and with the same number of threads the same call gives the same
    bits, with and without interruptions in between.

    Negatives are drawn uniformly from the items *with training edges*, except those that the user
    has interacted with. Evaluation ranks all items, so that one without a training edge is ranked
    although no step has pushed it down.

    Args:
        model (Recommender): The model, on the device to train on. Seed its initialization with
            :func:`torch_geometric.seed_everything`.
        data (HeteroData): The graph with validation edges in
            ``data['user', 'val', 'item'].edge_label_index``; without any, all epochs are run.
        epochs (int, optional): The largest number of epochs. (default: :obj:`500`)
        batch_size (int, optional): The number of triplets per step. (default: :obj:`2048`)
        lr (float, optional): The learning rate, multiplied by :attr:`Recommender.lr_decay` of the
            model after each epoch. (default: :obj:`1e-3`)
        weights (Dict[str, float], optional): Weights of named loss terms, see
            :class:`LossWeights`. (default: :obj:`None`)
        critic_steps (int, optional): Further steps per step in which only the critics of the
            redundancy learn; each costs a forward pass. (default: :obj:`0`)
        modality_dropout (float, optional): In each step an item lacks each of its modalities with
            this probability, but never the last one; see
            :func:`~mrdib_pyg.nn.models.drop_modalities`. (default: :obj:`0.0`)
        seed (int, optional): Seeds all draws. (default: :obj:`0`)
        patience (int, optional): Training stops once more than this many epochs in a row have
            brought no improvement. (default: :obj:`20`)
        monitor (str, optional): The validation metric to select by. (default: ``'recall@20'``)
        compile (bool, optional): If set to :obj:`True`, full batches run in fixed shapes: on a GPU
            each step as one CUDA graph, elsewhere its forward pass as one compiled graph. It
            computes the rows of all users and items, and pays where a step mostly waits for the
            launch of kernels: small data on a GPU. The loss is the same; its random draws are
            others. It excludes :obj:`modality_dropout`. (default: :obj:`False`)
        out (str or Path, optional): A folder for ``history.jsonl`` and the checkpoints
            ``best.pt`` and ``last.pt``, locked while the training runs. (default: :obj:`None`)
        resume (bool, optional): If set to :obj:`True`, continues from ``last.pt`` where there is
            one. (default: :obj:`False`)
        progress (bool, optional): If set to :obj:`False`, no progress bar is shown.
            (default: :obj:`True`)
        config (Dict[str, Any], optional): The content of ``config.json`` in :obj:`out`. Its
            ``'data_hash'``, if it has one, is taken for that of the data. Without it, there is no
            such file. (default: :obj:`None`)
        mesh (DeviceMesh, optional): The processes that train the model together, see
            :func:`mrdib_pyg.distributed.init`. All of them call this function with the same
            arguments, and have the same result. The model is split by
            :func:`mrdib_pyg.distributed.shard` and stays so. Files are written by the first
            process, and read by all: checkpoints hold the whole model, so that any number of
            processes may resume. It excludes :obj:`compile`. (default: :obj:`None`, one process)

    Raises:
        ValueError: If a setting is out of range, a checkpoint belongs to other settings, another
            model or other data, :obj:`out` holds a run and :obj:`resume` is not set, or another
            process is at work in :obj:`out`. In all these cases nothing has been written.
        FloatingPointError: If a term of the loss or a parameter is not finite.
        RuntimeError: If a step is to be compiled on a GPU, and waits for it or has shapes that
            depend on the batch, as one of a model of your own may; if this is one of several
            processes and there is no :obj:`mesh`; or if what all processes hold alike differs.
        OSError: If the folder cannot be written; older checkpoints stay as they were.
    """
    _check_settings(epochs, batch_size, lr, critic_steps, seed, patience)
    check_ratio(model, modality_dropout, 'modality_dropout')
    if compile and modality_dropout > 0:
        raise ValueError(
            f"'modality_dropout' is {modality_dropout}, but a compiled step takes the same masks "
            f"each time; leave out 'compile'"
        )
    k = _cutoff(monitor)
    weighting = LossWeights(model.loss_weights, weights)
    _check_weights(model, weighting)
    has_validation = num_held_out(data, 'val') > 0
    if has_validation and k > model.num_items:
        raise ValueError(
            f"'monitor' is '{monitor}' but there are {model.num_items} items to rank; lower the "
            f'number after the @'
        )
    # Plain numbers, also where they came as NumPy's, which a checkpoint could not hold.
    settings: dict[str, Any] = {
        'batch_size': int(batch_size),
        'lr': float(lr),
        'weights': weighting.weights,
        'critic_steps': int(critic_steps),
        'seed': int(seed),
        'patience': int(patience),
        'monitor': monitor,
    }
    # Only where they are used: a checkpoint says no more.
    settings |= {'compile': True} if compile else {}
    settings |= {'modality_dropout': float(modality_dropout)} if modality_dropout > 0 else {}
    hash = None if config is None else config.get('data_hash')
    if model.columns is not None and mesh is None:
        mesh = model.columns.mesh
    check_processes(mesh, 'fit')
    if mesh is not None and compile:
        raise ValueError(
            f"'compile' must be False in {mesh.size()} processes (got {compile}): a compiled step "
            f'waits for no other; leave it out, or start one process'
        )
    if mesh is not None and model.columns is None:
        shard(model, mesh)
    run = RunState(model, data, settings, out, hash)
    _check_edges(run, data)
    with ExitStack() as stack:
        if out is not None:
            enter_folder(stack, out, mesh)
        run.start(resume, config)
        compile_size = min(int(batch_size), run.edge_index.size(1)) if compile else None
        step = make_train_step(model, weighting, run.optimizer, compile_size)
        devices = [p.device for p in model.parameters() if p.is_cuda][:1]
        bar = tqdm(total=epochs, initial=run.epoch, desc='train', unit='epoch',
                   disable=not (progress and is_first(mesh)))  # fmt: skip
        with bar, torch.random.fork_rng(devices=devices):
            while run.epoch < epochs and run.num_bad <= patience:
                start = time.perf_counter()
                run.set_lr(settings['lr'] * model.lr_decay**run.epoch)
                losses = _train_epoch(run, step, settings)
                row: dict[str, Any] = {'epoch': run.epoch, 'seconds': time.perf_counter() - start}
                row['train'] = losses
                improved, metric = True, math.nan
                if has_validation:
                    model.eval()
                    row['val'] = _validate(model, data, k, run.epoch, mesh)
                    metric = row['val'][monitor]
                    improved = not metric <= run.best_metric  # strictly; NaN at the start
                check_repeated(model)
                # What one process decides by, all do.
                row, improved, metric = first(lambda: (row, improved, metric), mesh)  # noqa: B023
                run.finish_epoch(row, improved, metric)
                shown = losses if not has_validation else {**losses, monitor: metric}
                bar.set_postfix({x: f'{value:.4f}' for x, value in shown.items()}, refresh=False)
                bar.update()
        run.load_best()
    model.eval()
    return FitResult(run.best_epoch, run.best_metric, run.history.epochs)


#: The defaults of :func:`fit`, by the names of its settings.
DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(fit).parameters.items()
    if name not in ('model', 'data', 'seed', 'out', 'resume', 'progress', 'config', 'mesh')
}


def enter_folder(stack: ExitStack, out: str | Path, mesh: DeviceMesh | None) -> None:
    r"""Locks a folder until a stack is closed, in the first process for all."""

    def lock() -> None:
        stack.enter_context(lock_folder(out))

    first(lock, mesh)


def _check_weights(model: Recommender, weighting: LossWeights) -> None:
    idle = [name for name in MRDIB_TERMS if weighting.weights[name] > 0]
    if model.mrdib is None and idle:
        raise ValueError(
            f"'weights' names {idle}, but the model has neither MRdIB nor a control in its place; "
            f"build it with 'mrdib', or leave these weights out"
        )
    terms = {*model.loss_weights, *(() if model.mrdib is None else MRDIB_TERMS)}
    if not any(weighting.weights[name] > 0 for name in terms):
        raise ValueError(f"'weights' are zero for every term of the loss: {sorted(terms)}")


def _check_edges(run: RunState, data: HeteroData) -> None:
    ours, given = run.edge_index.cpu(), data[TRAIN_EDGE].edge_index.cpu()
    # The model sorts its edges and merges repeated ones.
    if not (torch.equal(ours, given) or torch.equal(ours, coalesce(given.long()))):
        raise ValueError("'data' has other training edges than the data 'model' was built from")
    if run.codes.numel() == run.edge_index[0].unique().numel() * run.candidates.numel():
        raise ValueError(
            'every user with training edges has interacted with every item of the training edges: '
            'there is no negative to learn from'
        )


def _validate(
    model: Recommender, data: HeteroData, k: int, epoch: int, mesh: DeviceMesh | None
) -> dict[str, float]:
    try:
        return evaluate(model, data, 'val', k=k, mesh=mesh)
    except ValueError as e:
        embeddings = model.embed()
        if all(bool(x.isfinite().all()) for x in embeddings[:2]):
            raise
        raise FloatingPointError(  # finite parameters may still have products that are not
            f"the embeddings are no longer finite after epoch {epoch}; lower 'lr', or scale the "
            f"features (feature_scaling='standard')"
        ) from e


def _train_epoch(run: RunState, step: TrainStep, settings: Mapping[str, Any]) -> dict[str, float]:
    seed, batch_size = settings['seed'], settings['batch_size']
    critic_steps = settings['critic_steps'] if run.critic_optimizer is not None else 0
    model, edge_index = run.model, run.edge_index
    device = edge_index.device
    run.epoch += 1
    model.train()
    noise = epoch_generator(seed, run.epoch, stream=NOISE).initial_seed()
    if device.type == 'cpu':  # the generators of other devices are not ours
        torch.default_generator.manual_seed(noise)
    else:
        torch.manual_seed(noise)
    model.on_epoch_start(run.epoch, epoch_generator(seed, run.epoch, device, GRAPH))
    negatives = epoch_generator(seed, run.epoch, device, NEGATIVES)
    order = torch.randperm(
        edge_index.size(1),
        generator=epoch_generator(seed, run.epoch, device, SHUFFLE),
        device=device,
    )
    src, pos = edge_index[:, order]
    neg = sample_negatives(
        src, run.codes, model.num_items, candidates=run.candidates, generator=negatives
    )
    if bool((neg < 0).any()):  # users who have interacted with every item have no negative
        keep = neg >= 0
        src, pos, neg = src[keep], pos[keep], neg[keep]

    step.start_epoch()
    steps: list[dict[str, Tensor]] = []
    for batch in zip(*(t.split(batch_size) for t in (src, pos, neg))):
        triplets = Triplets(*batch)
        with drop_modalities(model, settings.get('modality_dropout', 0.0)):
            for _ in range(critic_steps):
                _critic_step(run, triplets)
            steps.append(step(triplets))
    out = _mean_terms(steps, [t.numel() for t in src.split(batch_size)], run.epoch)
    named = list(model.named_parameters())
    is_bad = torch.stack([~param.isfinite().all() for _, param in named])
    if model.columns is not None:  # also in the blocks of others
        is_bad = torch.stack(model.columns.all_gather(is_bad.to(torch.uint8))).any(dim=0)
    for (name, _), bad in zip(named, is_bad.tolist()):
        if bad:  # by the last step, whose loss was still finite
            raise FloatingPointError(
                f"the parameter '{name}' is no longer finite after epoch {run.epoch}; lower 'lr', "
                f"or scale the features (feature_scaling='standard')"
            )
    return out


def _mean_terms(steps: list[dict[str, Tensor]], sizes: list[int], epoch: int) -> dict[str, float]:
    # Read at the end of the epoch: on a GPU, each reading would wait for the step.
    names = list(steps[0])
    table = torch.stack([torch.stack([step[name] for name in names]) for step in steps])
    table = table.to('cpu', torch.float64)
    faulty = (~table.isfinite()).nonzero()
    if faulty.numel() > 0:
        # The term that came first: from the next step on, all terms follow. The sum is none.
        row = table[int(faulty[0, 0])].tolist()
        wrong = {name: x for name, x in zip(names, row) if not math.isfinite(x)}
        name = next((name for name in wrong if name != 'loss'), 'loss')
        raise FloatingPointError(
            f"the loss term '{name}' became {wrong[name]} in epoch {epoch}; lower 'lr' or its "
            f"weight, or scale the features (feature_scaling='standard')"
        )
    share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    return dict(zip(names, (share @ table).tolist()))


def _critic_step(run: RunState, triplets: Triplets) -> None:
    assert run.critic_optimizer is not None
    redundant = run.model.loss(triplets)['redundant']
    grads = torch.autograd.grad(redundant, run.critics, allow_unused=True)
    for param, grad in zip(run.critics, grads):
        param.grad = grad
    run.critic_optimizer.step()


def _to_integer(name: str, value: Any) -> int:
    r"""Returns an integer of any type as one of Python's.

    Raises:
        ValueError: If it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"'{name}' must be an integer (got {value!r})") from None


def _check_settings(
    epochs: int, batch_size: int, lr: float, critic_steps: int, seed: int, patience: int
) -> None:
    for name, value in (('epochs', epochs), ('batch_size', batch_size)):
        if _to_integer(name, value) < 1:
            raise ValueError(f"'{name}' must be at least 1 (got {value})")
    for name, value in (('critic_steps', critic_steps), ('patience', patience)):
        if _to_integer(name, value) < 0:
            raise ValueError(f"'{name}' must not be negative (got {value})")
    if not 0 < lr < math.inf:
        raise ValueError(f"'lr' must be positive and finite (got {lr})")
    check_seed(seed)


def check_seed(seed: int) -> None:
    r"""Refuses what NumPy cannot be seeded by."""
    if not 0 <= _to_integer('seed', seed) < 2**32:
        raise ValueError(f"'seed' must lie in [0, 2**32) (got {seed})")


def _cutoff(monitor: str) -> int:
    metric, _, k = monitor.partition('@')
    is_number = k.isascii() and k.isdecimal() and not k.startswith('0')
    if metric not in METRICS or not is_number:
        raise ValueError(
            f"'monitor' must be one of {', '.join(METRICS)} at a number, such as 'recall@20' "
            f"(got '{monitor}')"
        )
    return int(k)


def num_held_out(data: HeteroData, split: str) -> int:
    r"""Returns the number of held-out edges of a split, 0 where there are none.

    Raises:
        ValueError: If there are some, but all belong to users without a training edge: they could
            not be ranked.
    """
    edge_type = ('user', split, 'item')
    if edge_type not in data.edge_types or data[edge_type].edge_label_index.size(1) == 0:
        return 0
    return held_out_edges(data, split).size(1)
