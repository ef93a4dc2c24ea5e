import copy
import inspect
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import data_hash
from mrdib_pyg.distributed import (
    block_of_optimizer_state,
    blocks,
    first,
    is_first,
    whole_optimizer_state,
)
from mrdib_pyg.files import append_line, atomic_file, is_there, remove_leftovers, write_atomic
from mrdib_pyg.interactions import num_nodes
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import MODELS, Recommender, find_model
from mrdib_pyg.nn.models.recommender import constructor_arguments
from mrdib_pyg.nn.models.registry import is_of_model, model_name
from mrdib_pyg.ops.negative_sampling import encode_edges
from mrdib_pyg.training.step import make_adam

VERSION = 1


class CheckpointError(ValueError):
    r"""A checkpoint that cannot be read, or that belongs to something else."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    r"""Saves tensors and plain values to a file that ``torch.load(path, weights_only=True)`` reads.
    It is written atomically.

    Args:
        path (str or Path): The file.
        state (Dict[str, Any]): Nested dictionaries and lists of tensors, numbers and strings.

    Raises:
        OSError: If it cannot be written; an older checkpoint stays as it was.
    """
    path = Path(path)
    try:
        with atomic_file(path) as part:
            torch.save({'version': VERSION, **state}, part)
    except (OSError, RuntimeError) as e:  # a full disk is a RuntimeError of PyTorch's file writer
        reason = (str(e).splitlines() or [''])[0]
        raise OSError(
            f"cannot write '{path}' ({reason}); if the disk is full, make room and continue with "
            f'resume: an older checkpoint is as it was'
        ) from e


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""Loads what :func:`save_checkpoint` has saved, without running any code from the file.

    Args:
        path (str or Path): The file.

    Returns:
        Dict[str, Any]: The state, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is torn, not a checkpoint, or of another version.
    """
    path = Path(path)
    try:
        found = is_there(path)
    except ValueError as e:
        raise CheckpointError(str(e)) from None
    if not found:
        raise FileNotFoundError(f"there is no checkpoint '{path}'; train a model into this folder")
    try:
        _check_archive(path)
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as e:  # bytes at random raise nearly anything in the two readers
        raise CheckpointError(
            f"the checkpoint '{path}' is torn or not a checkpoint of this package; restore it, or "
            f'train again'
        ) from e
    version = state.get('version') if isinstance(state, dict) else None
    if type(version) is not int or version != VERSION:
        raise CheckpointError(
            f"'{path}' is not a checkpoint of version {VERSION} of this package; train again"
        )
    return state


def _check_archive(path: Path) -> None:
    # PyTorch compresses nothing and checks no checksum: a flipped bit would pass unnoticed, and a
    # small file that was compressed could fill the memory.
    with open(path, 'rb') as f, zipfile.ZipFile(f) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile('it is compressed')
        if sum(member.file_size for member in members) > os.fstat(f.fileno()).st_size:
            raise zipfile.BadZipFile('its parts overlap')
        torn = archive.testzip()
        if torn is not None:
            raise zipfile.BadZipFile(f"the checksum of '{torn}' is wrong")


class History:
    r"""The record of a training run: one dictionary per epoch, and a file of one JSON line each.

    Args:
        path (str or Path, optional): The file, which is appended to; :obj:`None` keeps the record
            in memory alone. (default: :obj:`None`)
    """

    def __init__(self, path: None | str | Path = None) -> None:
        self.path = None if path is None else Path(path)
        self.epochs: list[dict[str, Any]] = []

    def append(self, row: dict[str, Any]) -> None:
        r"""Adds an epoch."""
        self.epochs.append(row)
        if self.path is not None:
            append_line(self.path, json.dumps(row))

    def restore(self, num_epochs: int) -> None:
        r"""Reads the first epochs back from the file and drops what an interrupted run wrote after
        them, be it half a line.

        Args:
            num_epochs (int): The number of epochs to keep.

        Raises:
            CheckpointError: If the file holds fewer.
        """
        assert self.path is not None
        text = ''
        if is_there(self.path):
            text = self.path.read_text(encoding='utf-8', errors='replace')
        self.epochs = []
        for line in text.splitlines()[:num_epochs]:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict) or row.get('epoch') != len(self.epochs) + 1:
                break
            self.epochs.append(row)
        if len(self.epochs) < num_epochs:
            raise CheckpointError(
                f"'{self.path}' holds {len(self.epochs)} of the {num_epochs} epochs that the "
                f'checkpoint has behind it; restore the file, or train into another folder'
            )
        write_atomic(self.path, ''.join(json.dumps(r) + '\n' for r in self.epochs).encode())

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(num_epochs={len(self)})'


COUNTS = ('epoch', 'best_epoch', 'num_bad')

RUN_FILES = ('config.json', 'history.jsonl', 'best.pt', 'last.pt', 'results.json', 'pid.json')


class RunState:
    r"""The state of a training run between two epochs, and its files. Nothing is written before
    :meth:`start`.

    Args:
        model (Recommender): The model to train.
        data (HeteroData): Its data.
        settings (Dict[str, Any]): What decides over the course of the training.
        out (str or Path, optional): The folder of the files; :obj:`None` keeps none.
        hash (str, optional): The hash of the data, where it is known. (default: :obj:`None`)
    """

    def __init__(
        self,
        model: Recommender,
        data: HeteroData,
        settings: dict[str, Any],
        out: None | str | Path,
        hash: str | None = None,
    ) -> None:
        self.model = model
        compile = settings.get('compile', False)
        self.optimizer = make_adam(list(model.parameters()), settings['lr'], compile)
        critics = getattr(model.mrdib, 'critics', None)
        self.critics = [] if critics is None else list(critics.parameters())
        self.critic_optimizer: torch.optim.Optimizer | None = None
        if settings['critic_steps'] > 0 and len(self.critics) > 0:
            self.critic_optimizer = make_adam(self.critics, settings['lr'])
        self.epoch, self.best_epoch, self.num_bad = 0, 0, 0
        self.best_metric = math.nan
        self.best_state: dict[str, Tensor] = {}  # without a folder, where it is on the disk

        self.edge_index = model.train_edge_index
        self.codes = encode_edges(self.edge_index, model.num_items)
        self.candidates = torch.unique(self.edge_index[1])

        self.out = None if out is None else Path(out)
        self.identity: dict[str, Any] = {}
        if self.out is not None:
            self.identity = {
                'model': model_name(type(model)),
                'config': _plain(model.config),
                'data_hash': data_hash(data) if hash is None else hash,
                'settings': _plain(settings),
            }
        self.mesh = None if model.columns is None else model.columns.mesh
        is_kept = self.out is not None and is_first(self.mesh)
        self.history = History(self.out / 'history.jsonl' if is_kept and self.out else None)

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
        epochs = first(lambda: self._start(resume, config), self.mesh)
        if resume and not is_first(self.mesh):
            self._load(self.out)
            self.history.epochs = epochs

    def _start(self, resume: bool, config: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        assert self.out is not None
        if resume:
            for name in RUN_FILES:
                is_there(self.out / name)  # refused now rather than in some epoch
            self._restore(self.out)
        elif any(os.path.lexists(self.out / name) for name in RUN_FILES[:-1]):
            raise ValueError(
                f"'out' ({self.out}) holds a run already; pass 'resume=True' to continue it, or "
                f'name another folder'
            )
        text = '' if config is None else json.dumps(self._keep_epochs(config), indent=2) + '\n'
        self.out.mkdir(parents=True, exist_ok=True)
        if config is not None:
            write_atomic(self.out / 'config.json', text.encode())
        return self.history.epochs

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
        self.history.append(row)
        if self.out is None:
            if improved:
                with blocks(self.model):
                    self.best_state = copy.deepcopy(self.model.state_dict())
            return
        last = {
            **self._common(),
            'num_bad': self.num_bad,
            'model': self.model.state_dict(),
            'optimizer': whole_optimizer_state(self.model, self.optimizer),
        }
        if self.critic_optimizer is not None:
            last['critic_optimizer'] = self.critic_optimizer.state_dict()
        first(lambda: self._save(last, improved), self.mesh)

    def _save(self, last: dict[str, Any], improved: bool) -> None:
        assert self.out is not None
        save_checkpoint(self.out / 'last.pt', last)
        # Results of fewer epochs, of a run that is trained further, are not those of this one.
        (self.out / 'results.json').unlink(missing_ok=True)
        if improved:
            (self.out / 'pid.json').unlink(missing_ok=True)  # of the parameters before
            self._save_best(self.out, last['model'])

    def load_best(self) -> None:
        r"""Gives the model the parameters of its best epoch."""
        if self.best_epoch in (0, self.epoch):
            return
        if self.out is not None:
            self.model.load_state_dict(load_checkpoint(self.out / 'best.pt')['model'])
            return
        with blocks(self.model):
            self.model.load_state_dict(self.best_state)

    def _restore(self, out: Path) -> None:
        remove_leftovers(out)  # of a process that was killed while it wrote
        if not (out / 'last.pt').exists():  # stopped before the first epoch was done
            if (out / 'history.jsonl').exists():
                self.history.restore(0)
            return
        parameters = self._load(out)
        self.history.restore(self.epoch)
        if self.best_epoch == self.epoch and not self._has_best(out):
            self._save_best(out, parameters)

    def _load(self, out: Path) -> dict[str, Tensor]:
        r"""Continues from the checkpoints, which are only read; returns the parameters."""
        if not (out / 'last.pt').exists():
            return {}
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
            config = _completed(identity.get('config'), type(self.model))
            identity = {**identity, 'model': self.identity['model'], 'config': config}
        difference = _difference(identity, self.identity)
        if difference is not None:
            raise CheckpointError(
                f"'{out / 'last.pt'}' was made with {difference}; use the same settings, or "
                f'another folder'
            )
        with blocks(self.model):
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
            own = block_of_optimizer_state(self.model, self.optimizer, state['optimizer'])
            _load_optimizer(self.optimizer, own)
            if self.critic_optimizer is not None:
                _load_optimizer(self.critic_optimizer, state['critic_optimizer'])
        except (RuntimeError, TypeError, AttributeError, LookupError, ValueError) as e:
            raise CheckpointError(
                f"the parameters in '{out}' do not fit the model {type(self.model).__name__}; "
                f'restore the checkpoints, or train into another folder'
            ) from e
        self.epoch, self.best_epoch = state['epoch'], state['best_epoch']
        self.num_bad, self.best_metric = state['num_bad'], state['best_metric']
        return state['model']

    def _has_best(self, out: Path) -> bool:
        try:
            return _is_of_epoch(load_checkpoint(out / 'best.pt'), self.best_epoch)
        except (FileNotFoundError, CheckpointError):
            return False

    def _save_best(self, out: Path, parameters: dict[str, Tensor]) -> None:
        save_checkpoint(out / 'best.pt', {**self._common(), 'model': parameters})

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


def _completed(config: Any, cls: type[Recommender]) -> Any:
    # What an older version had no argument for, it did as the default does.
    if not isinstance(config, dict):
        return config
    layer = config.get('mrdib')
    if isinstance(layer, dict) and 'control' not in layer:
        config = {**config, 'mrdib': {**_defaults(inspect.signature(MRdIB).parameters), **layer}}
    return {**_defaults(constructor_arguments(cls)), **config}


def _defaults(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    found = {name: parameter.default for name, parameter in parameters.items()}
    return {name: x for name, x in found.items() if x is not inspect.Parameter.empty}


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


def load_model(
    path: str | Path, data: HeteroData, cls: None | str | type[Recommender] = None
) -> tuple[Recommender, dict[str, Any]]:
    r"""Builds the model of a checkpoint of :func:`fit`, in evaluation mode.

    Args:
        path (str or Path): The checkpoint, e.g. ``best.pt`` in the folder of a run.
        data (HeteroData): The data the model was trained on.
        cls (str or Type[Recommender], optional): The class of the model, or its name as
            ``'module:Class'``, needed where it is not one of this package. (default: :obj:`None`)

    Returns:
        Tuple[Recommender, Dict[str, Any]]: The model, and what the checkpoint says of itself: the
        epoch, the best metric, and the identity of the run.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If it is torn, or belongs to another model or other data.
    """
    state = load_checkpoint(path)
    identity = state.get('identity')
    if (
        not isinstance(identity, dict)
        or not {'model', 'config', 'data_hash'} <= set(identity)
        or 'model' not in state
    ):
        raise CheckpointError(f"'{path}' is not a checkpoint of a training run; train again")
    found = data_hash(data)
    if identity['data_hash'] != found:
        raise CheckpointError(
            f"the model in '{path}' was trained on other data (hash "
            f'{str(identity["data_hash"])[:12]}, this data has {found[:12]}); pass the data set it '
            f'was trained on'
        )
    name = str(identity['model'])
    if cls is None:
        if name not in MODELS:
            raise CheckpointError(
                f"'{path}' holds the model {name}, which is not one of this package; pass its "
                f"class as 'cls', on the command line by --model MODULE:CLASS"
            )
        cls = MODELS[name]
    cls = find_model(cls)
    if not is_of_model(name, cls, may_have_moved=True):
        raise CheckpointError(
            f"'{path}' holds the model {name}, not {model_name(cls)}; pass its class as 'cls', on "
            f'the command line by --model, or leave that out for a model of this package'
        )
    nodes = [num_nodes(data, name) for name in ('user', 'item')]
    _check_sizes(path, identity['config'], state['model'], nodes)
    try:
        model = cls(data, **identity['config'])
        model.load_state_dict(state['model'])
    except (RuntimeError, TypeError, AttributeError, LookupError) as e:  # of other settings
        raise CheckpointError(
            f"the parameters in '{path}' do not fit the model {name}; train again"
        ) from e
    model.eval()
    info = {key: value for key, value in state.items() if key != 'model'}
    return model, info


def _check_sizes(path: str | Path, config: Any, parameters: Any, nodes: list[int]) -> None:
    # A checkpoint of somebody else must not ask for a model that takes all memory, or forever.
    tensors = parameters.values() if isinstance(parameters, dict) else ()
    widths = [n for x in tensors if isinstance(x, Tensor) for n in x.shape]
    most = max(*nodes, *widths, 4096)
    pending = [('config', config)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, (dict, list, tuple)):
            pending += value.items() if isinstance(value, dict) else [(name, x) for x in value]
        limit = 100 if str(name).endswith('layers') else most
        if isinstance(value, int) and abs(value) > limit:
            raise CheckpointError(
                f"the setting '{name}' in '{path}' must be at most {limit} (got {value}); train "
                f'again'
            )
