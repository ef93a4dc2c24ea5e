import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import data_hash
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.nn.models.registry import is_of_model, model_name
from mrdib_pyg.ops import encode_edges
from mrdib_pyg.training.atomic import write_atomic
from mrdib_pyg.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    remove_temporary_files,
    save_checkpoint,
)
from mrdib_pyg.training.history import History
from mrdib_pyg.training.train_step import make_adam

COUNTS = ('epoch', 'best_epoch', 'num_bad')
RUN_FILES = ('config.json', 'history.jsonl', 'best.pt', 'last.pt', 'results.json')


class RunState:
    r"""The state of a training run between two epochs, and its files. Nothing is written before
    :meth:`start`.

    Args:
        model (Recommender): The model to train.
        data (HeteroData): Its data.
        settings (Dict[str, Any]): What decides over the course of the training.
        out (str or Path, optional): The folder of the files; :obj:`None` keeps none.
    """

    def __init__(
        self,
        model: Recommender,
        data: HeteroData,
        settings: dict[str, Any],
        out: None | str | Path,
    ) -> None:
        self.model, self.settings = model, settings
        compile = settings.get('compile', False)
        self.optimizer = make_adam(list(model.parameters()), settings['lr'], compile)
        critics = getattr(model.mrdib, 'critics', None)
        self.critics = [] if critics is None else list(critics.parameters())
        self.critic_optimizer: torch.optim.Optimizer | None = None
        if settings['critic_steps'] > 0 and len(self.critics) > 0:
            self.critic_optimizer = make_adam(self.critics, settings['lr'])
        self.epoch, self.best_epoch, self.num_bad = 0, 0, 0
        self.best_metric = math.nan
        self.best_state: dict[str, Tensor] = {}

        self.edge_index = model.train_edge_index
        self.codes = encode_edges(self.edge_index, model.num_items)
        self.candidates = torch.unique(self.edge_index[1])

        self.out = None if out is None else Path(out)
        self.identity: dict[str, Any] = {}
        if self.out is not None:
            self.identity = {
                'model': model_name(type(model)),
                'config': _plain(model.config),
                'data_hash': data_hash(data),
                'settings': _plain(settings),
            }
        self.history = History(None if self.out is None else self.out / 'history.jsonl')

    def start(self, resume: bool, config: Mapping[str, Any] | None) -> None:
        r"""Makes the folder or, to resume, continues from what it holds; then writes
        ``config.json``, if there is a :obj:`config`.

        Raises:
            ValueError: If the folder holds another run, or one that is not to be resumed.
        """
        if self.out is None:
            if resume:
                raise ValueError("'resume' needs 'out', the folder of the run to continue")
            return
        if resume:
            self._restore(self.out)
        elif any((self.out / name).exists() for name in RUN_FILES):
            raise ValueError(
                f"'out' ({self.out}) holds a run already; pass 'resume=True' to continue it, or "
                f'name another folder'
            )
        text = '' if config is None else json.dumps(self._keep_epochs(config), indent=2) + '\n'
        self.out.mkdir(parents=True, exist_ok=True)
        if config is not None:
            write_atomic(self.out / 'config.json', text.encode())

    def _keep_epochs(self, config: Mapping[str, Any]) -> dict[str, Any]:
        # Of a run that has more epochs already than it is resumed for.
        fit = config.get('fit')
        if isinstance(fit, Mapping) and isinstance(fit.get('epochs'), int):
            config = {**config, 'fit': {**fit, 'epochs': max(fit['epochs'], self.epoch)}}
        return dict(config)

    def set_lr(self, lr: float) -> None:
        r"""Sets the learning rate of the optimizers."""
        for optimizer in (self.optimizer, self.critic_optimizer):
            for group in [] if optimizer is None else optimizer.param_groups:
                group['lr'] = lr

    def finish_epoch(self, row: dict[str, Any], improved: bool, metric: float) -> None:
        r"""Records an epoch and saves the checkpoints.

        A crash may fall between any two writes. ``last.pt`` is what counts: the history may run
        ahead of it by an epoch, and ``best.pt`` may lag behind it by one, in which case
        ``last.pt`` holds the same parameters.
        """
        self.num_bad = 0 if improved else self.num_bad + 1
        if improved:
            self.best_epoch, self.best_metric = self.epoch, metric
            self.best_state = copy.deepcopy(self.model.state_dict())
        self.history.append(row)
        if self.out is None:
            return
        last = {
            **self._common(),
            'num_bad': self.num_bad,
            'model': self.model.state_dict(),
            'optimizer': self.optimizer.state_dict(),
        }
        if self.critic_optimizer is not None:
            last['critic_optimizer'] = self.critic_optimizer.state_dict()
        save_checkpoint(self.out / 'last.pt', last)
        # Results of fewer epochs, of a run that is trained further, are not those of this one.
        (self.out / 'results.json').unlink(missing_ok=True)
        if improved:
            (self.out / 'pid.json').unlink(missing_ok=True)  # of the parameters before
            self._save_best(self.out)

    def load_best(self) -> None:
        r"""Gives the model the parameters of its best epoch."""
        if len(self.best_state) > 0:
            self.model.load_state_dict(self.best_state)

    def _restore(self, out: Path) -> None:
        remove_temporary_files(out)  # of a process that was killed while it wrote
        if not (out / 'last.pt').exists():  # stopped before the first epoch was done
            if self.history.path is not None and self.history.path.exists():
                self.history.restore(0)
            return
        state = load_checkpoint(out / 'last.pt')
        missing = {'identity', *COUNTS, 'best_metric', 'model', 'optimizer'} - set(state)
        if missing:
            raise CheckpointError(
                f"'{out / 'last.pt'}' lacks {sorted(missing)}, so nothing can be continued from "
                f'it; train into another folder'
            )
        identity = state['identity']
        is_known = isinstance(identity, dict) and isinstance(identity.get('model'), str)
        if is_known and is_of_model(identity['model'], type(self.model)):
            identity = {**identity, 'model': self.identity['model']}
        difference = _difference(identity, self.identity)
        if difference is not None:
            raise CheckpointError(
                f"'{out / 'last.pt'}' was made with {difference}; use the same settings, or "
                f'another folder'
            )
        dtypes = [_dtype(x) for x in (state['model'], self.model.state_dict())]
        if None not in dtypes and dtypes[0] != dtypes[1]:  # which loading casts in silence
            raise CheckpointError(
                f"'{out / 'last.pt'}' holds parameters of {dtypes[0]}, but the model's are of "
                f'{dtypes[1]}; cast the model by `.to({dtypes[0]})`, or train into another folder'
            )
        counts = [state[name] for name in COUNTS]
        fits = all(type(n) is int and n >= 0 for n in counts)
        if not fits or type(state['best_metric']) is not float:
            raise CheckpointError(
                f"'{out / 'last.pt'}' does not say how far the training was; restore it, or train "
                f'into another folder'
            )
        best = state
        if state['best_epoch'] != state['epoch']:
            best = load_checkpoint(out / 'best.pt')
            if not _is_of_epoch(best, state['best_epoch']) or 'model' not in best:
                raise CheckpointError(
                    f"'{out / 'best.pt'}' does not hold epoch {state['best_epoch']}, which was the "
                    f'best; restore it, or train into another folder'
                )
        try:
            if best is not state:
                self.model.load_state_dict(best['model'])
            self.model.load_state_dict(state['model'])
            _load_optimizer(self.optimizer, state['optimizer'])
            if self.critic_optimizer is not None:
                _load_optimizer(self.critic_optimizer, state['critic_optimizer'])
        except (RuntimeError, TypeError, AttributeError, LookupError, ValueError) as e:
            raise CheckpointError(
                f"the parameters in '{out}' do not fit the model {type(self.model).__name__}; "
                f'restore the checkpoints, or train into another folder'
            ) from e
        self.history.restore(state['epoch'])
        self.epoch, self.best_epoch = state['epoch'], state['best_epoch']
        self.num_bad, self.best_metric = state['num_bad'], state['best_metric']
        self.best_state = best['model']
        if self.best_epoch == self.epoch and not self._has_best(out):
            self._save_best(out)

    def _has_best(self, out: Path) -> bool:
        try:
            return _is_of_epoch(load_checkpoint(out / 'best.pt'), self.best_epoch)
        except (FileNotFoundError, CheckpointError):
            return False

    def _save_best(self, out: Path) -> None:
        save_checkpoint(out / 'best.pt', {**self._common(), 'model': self.best_state})

    def _common(self) -> dict[str, Any]:
        return {
            'identity': self.identity,
            'epoch': self.epoch,
            'best_epoch': self.best_epoch,
            'best_metric': self.best_metric,
        }


def _dtype(parameters: Any) -> torch.dtype | None:
    r"""Returns the type of the first floating-point tensor by name."""
    values = parameters.values() if isinstance(parameters, Mapping) else []
    found = (x.dtype for x in values if isinstance(x, Tensor) and x.is_floating_point())
    return next(found, None)


def _is_of_epoch(state: dict[str, Any], epoch: int) -> bool:
    found = state.get('epoch')
    return type(found) is int and found == epoch  # a tensor would give a tensor


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    # PyTorch checks the number of the parameters only, and would fail in the first step.
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group['capturable'] = optimizer.defaults['capturable']  # the device's, not the run's
        for name, value in optimizer.defaults.items():
            if name != 'lr' and group[name] != value:
                raise ValueError(f'the optimizer has another {name!r}')
        for param in group['params']:
            entry = optimizer.state.get(param)
            if entry is None:  # it had no gradient
                continue
            shapes = [entry[name].shape for name in ('exp_avg', 'exp_avg_sq')]
            if shapes != [param.shape] * 2 or entry['step'].numel() != 1:
                raise ValueError('the moments of the optimizer have other shapes')


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    # As it will be read back, to be compared with that, and free of anything but plain values.
    try:
        return json.loads(json.dumps(values))
    except TypeError as e:
        raise ValueError(
            f'{dict(values)} cannot be saved ({e}); pass plain numbers and names, e.g. '
            f"'redundancy' by name, or leave 'out' away"
        ) from e


def _difference(found: Any, wanted: Any, name: str = '') -> str | None:
    r"""Returns the first setting in which two nested dictionaries differ, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            inner = _difference(found.get(key), wanted.get(key), f'{name}.{key}' if name else key)
            if inner is not None:
                return inner
        return None
    try:
        same = bool(found == wanted)
    except RuntimeError:  # of a tensor, which is no setting
        same = False
    return None if same else f'{name} {found!r} but this run has {wanted!r}'
