r"""Training, evaluation and ranking by several processes, equal to one.

The embedding tables are split by channels. A process holds some columns of each table and of its
optimizer state, and propagates them without communication, because a propagation acts on each
channel by itself. The rows of a batch are then gathered from all processes, and each of them
computes the same loss of the whole batch, with the same random draws.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.func import functional_call

T = TypeVar('T')


def init(device: str | torch.device = 'cpu', timeout: float = 600.0) -> DeviceMesh | None:
    r"""Joins the processes that ``torchrun`` has started: by gloo on CPUs, by NCCL on GPUs, of
    which each process takes that of its ``LOCAL_RANK``.

    Args:
        device (str or torch.device, optional): The kind of device to train on.
            (default: ``'cpu'``)
        timeout (float, optional): The seconds after which a process gives up waiting for the
            others. (default: :obj:`600.0`)

    Returns:
        DeviceMesh or None: All processes in one dimension, ``'channels'``; :obj:`None` for one
        process, where ``WORLD_SIZE`` is 1 or not set.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1 and not dist.is_initialized():
        return None
    kind = torch.device(device).type
    if kind == 'cuda':
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', '0')))
    if not dist.is_initialized():
        backend = 'nccl' if kind == 'cuda' else 'gloo'
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    if dist.get_world_size() == 1:
        return None
    return init_device_mesh(kind, (dist.get_world_size(),), mesh_dim_names=('channels',))


@contextmanager
def processes(
    device: str | torch.device = 'cpu', timeout: float = 600.0
) -> Iterator[DeviceMesh | None]:
    r"""Joins the processes of ``torchrun`` as :func:`init` does inside a :obj:`with` block. At its
    end, all wait for each other and leave; after an error, a process leaves at once.
    """
    mesh = init(device, timeout)
    if mesh is None:
        yield None
        return
    try:
        yield mesh
        dist.barrier()  # else the first to leave may take the connections of the others with it
    finally:
        dist.destroy_process_group()


def is_first(mesh: DeviceMesh | None) -> bool:
    r"""Whether this process is the first of a mesh, which writes files and prints."""
    return mesh is None or mesh.get_local_rank() == 0


def first(function: Callable[[], T], mesh: DeviceMesh | None) -> T:
    r"""Calls a function in the first process alone and returns its result in all of them. Where it
    raises, all of them raise.

    Args:
        function (Callable): What to call.
        mesh (DeviceMesh, optional): The processes; :obj:`None` for one.
    """
    if mesh is None:
        return function()
    outcome: list[Any] = [None, None]
    if is_first(mesh):
        try:
            outcome[0] = function()
        except Exception as e:
            outcome[1] = e
    device = torch.device(mesh.device_type)
    if device.type == 'cuda':
        device = torch.device('cuda', torch.cuda.current_device())
    source = dist.get_global_rank(mesh.get_group(), 0)
    try:
        dist.broadcast_object_list(outcome, source, mesh.get_group(), device)
    except (TypeError, AttributeError):  # an error that cannot be pickled
        if outcome[1] is not None:
            raise outcome[1] from None
        raise
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def check_processes(mesh: DeviceMesh | None, caller: str) -> None:
    r"""Refuses one of several processes that does not know of the others.

    Args:
        mesh (DeviceMesh, optional): The processes; :obj:`None` for one.
        caller (str): The function that takes the argument :obj:`mesh`.

    Raises:
        RuntimeError: If ``torchrun`` has started several processes and :obj:`mesh` is :obj:`None`.
    """
    if mesh is not None:
        return
    size = dist.get_world_size() if dist.is_initialized() else 1
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        size = max(size, int(os.environ.get('WORLD_SIZE', '1')))
    if size > 1:
        raise RuntimeError(
            f"{caller} is one of {size} processes, and 'mesh' is None: each would train a model of "
            f'its own, into the same folder; pass mesh=mrdib_pyg.distributed.init() to train one '
            f'model together, or start one process'
        )


class Columns:
    r"""The columns of every table that a process of a mesh holds: of :math:`C` columns a block of
    :math:`\lceil C / P \rceil` or :math:`\lfloor C / P \rfloor`, in the order of the processes.

    Args:
        mesh (DeviceMesh): The processes, in one dimension.

    Attributes:
        num_bytes (int): The bytes this process has sent in gathers.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        if mesh.ndim != 1:
            raise ValueError(
                f"'mesh' must have one dimension (got {mesh.ndim}); pass a dimension of it, e.g. "
                f"mesh['channels']"
            )
        self.mesh, self.group = mesh, mesh.get_group()
        self.rank, self.size = mesh.get_local_rank(), mesh.size()
        self.num_bytes = 0
        self.keeps_blocks = False

    def __deepcopy__(self, memo: dict[int, Any]) -> 'Columns':
        return self  # a process group cannot be copied

    def widths(self, width: int) -> list[int]:
        r"""Returns the number of columns of each process, of :obj:`width` in all."""
        return [width // self.size + (rank < width % self.size) for rank in range(self.size)]

    def block(self, width: int) -> slice:
        r"""Returns the columns of this process, of :obj:`width` in all."""
        widths = self.widths(width)
        start = sum(widths[: self.rank])
        return slice(start, start + widths[self.rank])

    def gather(self, x: Tensor, width: int) -> Tensor:
        r"""Returns all :obj:`width` columns of a matrix of which each process has its block. The
        gradient is the block of the gradient, which all processes have in whole.
        """
        return _Gather.apply(x, width, self)

    def sum(self, x: Tensor) -> Tensor:
        r"""Returns the sum over processes, in their order. All of them have the gradient."""
        return _Sum.apply(x, self)

    def linear(self, x: Tensor, lin: Any) -> Tensor:
        r"""Returns the columns of this process of a linear map that all processes hold. Its
        gradient is gathered.
        """
        block = self.block(lin.weight.size(0))
        weight = _Cut.apply(lin.weight, block, self)
        bias = None if lin.bias is None else _Cut.apply(lin.bias, block, self)
        return F.linear(x, weight, bias)

    def apply(self, module: nn.Module, x: Tensor) -> Tensor:
        r"""Applies a module that all processes hold, where each of them goes on with its own
        columns: the gradients of the parameters are summed over processes.
        """
        named = {name: _SumGradient.apply(p, self) for name, p in module.named_parameters()}
        return functional_call(module, named, (x,))

    def all_gather(self, x: Tensor) -> list[Tensor]:
        r"""Returns the tensor of each process, which all have the same shape."""
        x = x.contiguous()
        out = [torch.empty_like(x) for _ in range(self.size)]
        self.num_bytes += (self.size - 1) * x.numel() * x.element_size()
        dist.all_gather(out, x, self.group)
        return out

    def all_columns(self, x: Tensor, width: int) -> Tensor:
        r"""As :meth:`gather`, without a gradient."""
        widths = self.widths(width)
        # Blocks of different widths are not gathered.
        blocks = self.all_gather(F.pad(x.detach(), (0, widths[0] - x.size(1))))
        return torch.cat([y[:, :n] for y, n in zip(blocks, widths)], dim=1)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(rank={self.rank}, size={self.size})'


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, width, columns):
        ctx.block = columns.block(width)
        return columns.all_columns(x, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad[:, ctx.block].contiguous(), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, columns):
        return _add(columns.all_gather(x.detach()))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad, None


class _Cut(torch.autograd.Function):
    # Some rows of a parameter that all processes hold.
    @staticmethod
    def forward(ctx, x, block, columns):
        ctx.shape, ctx.columns = x.shape, columns
        return x.detach()[block].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad = grad.reshape(grad.size(0), -1).t()
        out = ctx.columns.all_columns(grad, ctx.shape[0])
        return out.t().reshape(ctx.shape).contiguous(), None, None


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, columns):
        ctx.columns = columns
        return x.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _add(ctx.columns.all_gather(grad)), None


def _add(parts: list[Tensor]) -> Tensor:
    # In the order of the processes, so that all of them have the same bits.
    out = parts[0].clone()
    for part in parts[1:]:
        out += part
    return out


def shard(model: Any, mesh: DeviceMesh) -> None:
    r"""Splits the embedding tables of a recommender by channels: each process keeps its block of
    columns, in place. All processes must have built the same model, from the same seed.

    From then on :meth:`forward`, :meth:`loss` and :meth:`embed` must be called by all processes,
    in the same order and with the same batch; what they return is whole. So must
    :meth:`state_dict`, which holds the whole tables under the same keys;
    :meth:`load_state_dict` takes them.

    Args:
        model (Recommender): A model whose tables may be split (:attr:`splits_channels`), before
            its optimizer is made.
        mesh (DeviceMesh): The processes, see :func:`init`.

    Raises:
        ValueError: If the model mixes channels before or while it propagates them, is split
            already, has fewer channels than there are processes, or differs between processes.
    """
    name, columns = type(model).__name__, Columns(mesh)
    if not model.splits_channels:
        raise ValueError(
            f'{name} cannot be trained by several processes: it mixes the channels of its tables '
            f'before or while it propagates them, or does not say that it may be split '
            f"(splits_channels); train it in one process, without 'mesh'"
        )
    if model.columns is not None:
        raise ValueError(f'{name} is split by channels already; build it anew to split it again')
    tables = _tables(model)
    for key, table in tables.items():
        if table.embedding_dim < columns.size:
            raise ValueError(
                f"'channels' must be at least the number of processes, {columns.size} (got "
                f"{table.embedding_dim} in '{key}'); start fewer processes, or take more channels"
            )
    check_repeated(model, columns)
    for table in tables.values():
        table.weight = nn.Parameter(
            table.weight.detach()[:, columns.block(table.embedding_dim)].clone(),
            requires_grad=table.weight.requires_grad,
        )
        table.register_state_dict_post_hook(_WholeTable(columns))
        table.register_load_state_dict_pre_hook(_BlockOfTable(columns))
    model.columns = columns
    model.forget()


def _tables(model: nn.Module) -> dict[str, nn.Embedding]:
    return {name: x for name, x in model.named_modules() if isinstance(x, nn.Embedding)}


class _WholeTable:
    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __call__(self, module: nn.Embedding, state: dict[str, Any], prefix: str, _: Any) -> None:
        if not self.columns.keeps_blocks:
            key = f'{prefix}weight'
            state[key] = self.columns.all_columns(state[key], module.embedding_dim)


class _BlockOfTable:
    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def __call__(
        self, module: nn.Embedding, state: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        key = f'{prefix}weight'
        if key in state and not self.columns.keeps_blocks:
            # Of another width it is left as it is, to be refused.
            if state[key].dim() == 2 and state[key].size(1) == module.embedding_dim:
                state[key] = state[key][:, self.columns.block(module.embedding_dim)]
            else:
                state[key] = state[key].new_empty(0)


@contextmanager
def blocks(model: Any) -> Iterator[None]:
    r"""Lets :meth:`state_dict` and :meth:`load_state_dict` of a model, inside a :obj:`with` block,
    deal with what this process holds: without communication, and without whole tables.
    """
    columns = model.columns
    if columns is None:
        yield
        return
    columns.keeps_blocks = True
    try:
        yield
    finally:
        columns.keeps_blocks = False


def whole_optimizer_state(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    r"""Returns the state of an optimizer as one process would have it; to be called by all."""
    state = optimizer.state_dict()
    if model.columns is None:
        return state
    width = {id(table.weight): table.embedding_dim for table in _tables(model).values()}
    entries = dict(state['state'])
    for index, param in enumerate(_parameters(optimizer)):
        if id(param) in width and index in entries:
            entries[index] = {
                name: model.columns.all_columns(x, width[id(param)]) if _is_table(x) else x
                for name, x in entries[index].items()
            }
    return {**state, 'state': entries}


def block_of_optimizer_state(
    model: Any, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> dict[str, Any]:
    r"""Returns what this process needs of a state of :func:`whole_optimizer_state`."""
    if model.columns is None:
        return dict(state)
    width = {id(table.weight): table.embedding_dim for table in _tables(model).values()}
    entries = dict(state['state'])
    for index, param in enumerate(_parameters(optimizer)):
        if id(param) in width and index in entries:
            block = model.columns.block(width[id(param)])
            entries[index] = {
                name: x[:, block].clone() if _is_table(x) else x
                for name, x in entries[index].items()
            }
    return {**state, 'state': entries}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group['params']]


def _is_table(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() == 2


def check_repeated(model: Any, columns: Columns | None = None) -> None:
    r"""Compares what all processes hold alike, the parameters and buffers that are not split, by
    checksums; to be called by all of them. Does nothing in one process.

    Raises:
        RuntimeError: If a parameter or buffer differs between processes, which it names.
    """
    is_split = model.columns is not None
    columns = model.columns if columns is None else columns
    if columns is None:
        return
    split = {id(table.weight) for table in _tables(model).values()} if is_split else set()
    named = [*model.named_parameters(), *model.named_buffers()]
    named = [(name, x) for name, x in named if id(x) not in split]
    sums = torch.tensor([_checksum(x) for _, x in named], device=model.train_edge_index.device)
    count = sums.new_tensor([sums.numel()])
    if len({int(x) for x in columns.all_gather(count)}) > 1:
        raise RuntimeError(
            f'{type(model).__name__} has other parameters in other processes; build the same model '
            f'in all of them'
        )
    for other in columns.all_gather(sums):
        for (name, _), is_same in zip(named, (other == sums).tolist()):
            if not is_same:
                # The first process sees the others differ, each of the others the first.
                raise RuntimeError(
                    f"'{name}' of {type(model).__name__} differs between processes, which must "
                    f'compute the same: build the model from one seed and the same data in all of '
                    f'them, with the same versions, kind of processor and number of threads'
                )


def _checksum(x: Tensor) -> int:
    return zlib.crc32(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
