import inspect
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_geometric
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

import mrdib_pyg
from mrdib_pyg.datasets import data_hash
from mrdib_pyg.distributed import check_processes, first
from mrdib_pyg.evaluation import average_metrics, evaluate
from mrdib_pyg.files import write_atomic
from mrdib_pyg.nn.models import Recommender, find_model
from mrdib_pyg.nn.models.recommender import check_values
from mrdib_pyg.nn.models.registry import model_name, model_settings, takes_mrdib
from mrdib_pyg.training._fit import DEFAULTS, check_seed, enter_folder, fit, num_held_out


def provenance() -> dict[str, Any]:
    r"""Returns what a result needs besides its settings and the hash of its data to be looked at
    again: the versions of the software, and the machine.
    """
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        'versions': {
            'mrdib_pyg': mrdib_pyg.__version__,
            'torch': torch.__version__,
            'torch_geometric': torch_geometric.__version__,
            'numpy': np.__version__,
            'python': platform.python_version(),
        },
        'machine': {
            'system': platform.system(),
            'processor': _processor(),
            'cores': os.cpu_count(),
            'threads': torch.get_num_threads(),
            'cuda': cuda,
        },
    }


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as f:
            for line in f:
                if line.startswith('model name'):
                    return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def train_model(
    data: HeteroData,
    model: str | type[Recommender],
    *,
    settings: Mapping[str, Any] | None = None,
    mrdib: Mapping[str, Any] | None = None,
    seed: int = 0,
    k: Sequence[int] = (5, 10, 20, 50),
    test: bool = True,
    per_user: bool = False,
    out: None | str | Path = None,
    device: str | torch.device = 'cpu',
    dataset: str | None = None,
    mesh: DeviceMesh | None = None,
    **fit_settings: Any,
) -> dict[str, Any]:
    r"""Trains a new model, evaluates its best epoch, and returns (and saves) everything that a
    result needs: settings, seed, metrics, hash of the data, versions and machine.

    The test edges are read once, after training.

    Args:
        data (HeteroData): The data set.
        model (str or Type[Recommender]): A name in :obj:`~mrdib_pyg.nn.models.MODELS`, or a model
            of your own: its class, or its name as ``'module:Class'``.
        settings (Dict[str, Any], optional): Arguments of the model. (default: :obj:`None`)
        mrdib (Dict[str, Any], optional): Settings of MRdIB (``{}`` for its defaults) or of a
            control (``{'control': 'l2'}``, ``{'control': 'noise', 'noise_scale': 0.1}``).
            (default: :obj:`None`, the plain model)
        seed (int, optional): Seeds the initialization and all draws. (default: :obj:`0`)
        k (Sequence[int], optional): The cut-offs of the metrics.
            (default: :obj:`(5, 10, 20, 50)`; those beyond the number of items are left out)
        test (bool, optional): If set to :obj:`False`, the test edges are not read.
            (default: :obj:`True`)
        per_user (bool, optional): If set to :obj:`True`, the results also hold the metrics of each
            user of the test edges under :obj:`"per_user"`, see
            :func:`~mrdib_pyg.evaluation.evaluate`; they are not saved. (default: :obj:`False`)
        out (str or Path, optional): A folder for ``config.json``, ``history.jsonl``, the
            checkpoints and ``results.json``. (default: :obj:`None`)
        device (str or torch.device, optional): Where to train. (default: ``'cpu'``)
        dataset (str, optional): The name or folder of the data, to be recorded.
            (default: :obj:`None`)
        mesh (DeviceMesh, optional): The processes that train and evaluate the model together, all
            of which call this function; see :func:`fit`. (default: :obj:`None`, one process)
        **fit_settings: Arguments of :func:`fit`.

    Raises:
        RuntimeError: If this is one of several processes, and there is no :obj:`mesh`.
        ValueError: If the model or a setting is unknown or out of range.
    """
    seed, settings, fit_settings = (_plain(x) for x in (seed, settings, fit_settings))
    check_seed(seed)
    check_processes(mesh, 'train_model')
    for split in ('val', 'test') if test else ('val',):
        num_held_out(data, split)  # refused now rather than after the training
    with ExitStack() as stack:
        if out is not None:
            enter_folder(stack, out, mesh)
        net, kwargs = _build(data, find_model(model), dict(settings or {}), mrdib, seed)
        net = net.to(device)
        config = {
            'dataset': dataset or data.to_dict().get('name'),
            'data_hash': data_hash(data),
            'model': model_name(type(net)),
            'settings': kwargs,
            'seed': seed,
            'fit': {
                **{name: fit_settings.get(name, DEFAULTS[name]) for name in DEFAULTS},
                'weights': dict(fit_settings.get('weights') or {}),
            },
            **provenance(),
        }
        if mesh is not None:
            config['processes'] = mesh.size()
        num_parameters = sum(p.numel() for p in net.parameters())  # all, before a split
        start = time.perf_counter()
        fitted = fit(net, data, seed=seed, out=out, config=config, mesh=mesh, **fit_settings)
        results = {
            **config,
            'num_parameters': num_parameters,
            'num_epochs': len(fitted.history),
            'best_epoch': fitted.best_epoch,
            'epoch_seconds': sum(row['seconds'] for row in fitted.history) / len(fitted.history),
            'seconds': time.perf_counter() - start,
            'terms': fitted.history[fitted.best_epoch - 1]['train'],
        }
        cutoffs = [n for n in k if n <= net.num_items] or [net.num_items]
        users: dict[str, Tensor] | None = None
        for split in ('val', 'test') if test else ('val',):
            if num_held_out(data, split) > 0:
                users = evaluate(net, data, split, k=cutoffs, mesh=mesh, per_user=True)
                results[split] = average_metrics(users)

        def finish() -> dict[str, Any]:
            if out is not None:
                text = json.dumps(results, indent=2) + '\n'
                write_atomic(Path(out) / 'results.json', text.encode())
            return results

        results = first(finish, mesh)
    if per_user and 'test' in results and users is not None:
        results['per_user'] = {name: value.cpu() for name, value in users.items()}
    return results


def _build(
    data: HeteroData,
    cls: type[Recommender],
    kwargs: dict[str, Any],
    mrdib: Mapping[str, Any] | None,
    seed: int,
) -> tuple[Recommender, dict[str, Any]]:
    r"""Returns a new model and the arguments of its constructor."""
    name, known = model_name(cls), model_settings(cls)
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(f"the model '{name}' has no settings {unknown}; it has {list(known)}")
    check_values(cls, kwargs)
    if mrdib is not None and not cls.multimodal:
        raise ValueError(
            f'{cls.__name__} reads no modality, so there is nothing for MRdIB to encode; leave out '
            f"'mrdib'"
        )
    if mrdib is not None and not takes_mrdib(cls):
        raise ValueError(
            f"the constructor of the model '{name}' takes no 'mrdib'; give it that argument, and "
            f'hand it on to Recommender'
        )
    if mrdib is not None:
        kwargs['mrdib'] = dict(mrdib)
    seed_everything(seed)
    try:
        net = cls(data, **kwargs)
    except TypeError as e:
        raise ValueError(
            f"'settings' {kwargs} do not suit the model '{name}' ({e}); see the defaults of "
            f'{cls.__name__}'
        ) from e
    _check_stored(net, name, {**known, **kwargs}, mrdib is not None)
    return net, kwargs


def _check_stored(net: Recommender, name: str, given: Mapping[str, Any], has_mrdib: bool) -> None:
    # What a model of one's own may forget, and nothing but wrong results would tell of.
    if has_mrdib and net.mrdib is None:
        raise ValueError(
            f"the constructor of the model '{name}' takes 'mrdib' and does not hand it on: pass it "
            f'to the constructor of Recommender'
        )
    for key, stored in net.config.items():
        if key == 'mrdib' or _is_equal(stored, given[key]):
            continue
        if given[key] is inspect.Parameter.empty:
            raise ValueError(
                f"the model '{name}' takes **kwargs, but sets '{key}' itself: write the arguments "
                f'of its constructor out, since a checkpoint builds the model anew by them'
            )
        raise ValueError(
            f"the model '{name}' must store its argument '{key}' as it was given, {given[key]!r} "
            f'(self.{key} is {stored!r}): a checkpoint builds the model anew from that'
        )


def _is_equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError):  # of tensors and arrays
        return a is b


def _plain(value: Any) -> Any:
    # Numbers of NumPy as those of Python, which can be recorded.
    if isinstance(value, Mapping):
        return {name: _plain(x) for name, x in value.items()}
    return value.item() if isinstance(value, np.generic) else value
