from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch_geometric.data import HeteroData

from mrdib_pyg.nn.bottleneck import module_key
from mrdib_pyg.nn.models.batch import Pair, Rows
from mrdib_pyg.ops.rows import linear_rows

_ATTRIBUTES = nn.ModuleDict()


class ModalityDict(nn.ModuleDict):
    r"""A :class:`~torch.nn.ModuleDict` over modalities that also takes the names of its own
    attributes, such as ``'type'`` and ``'items'``.
    """

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_to_key(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_to_key(key), module)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and super().__contains__(_to_key(key))


def _to_key(name: str) -> str:
    # Other names stay as they are: checkpoints hold them.
    return module_key(name) if hasattr(_ATTRIBUTES, name) else name


def unit_rows(x: Tensor) -> Tensor:
    r"""Scales each row to unit Euclidean norm; a row of zeros stays, with a gradient of zero. Its
    backward pass reads the table less often than that of :func:`F.normalize
    <torch.nn.functional.normalize>`.
    """
    return _UnitRows.apply(x)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.where(norm > 0, norm, torch.inf).reciprocal_()
        out = x * inverse
        ctx.save_for_backward(out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        out, inverse = ctx.saved_tensors
        along = (out * grad).sum(dim=-1, keepdim=True)
        return torch.addcmul(grad, out, along, value=-1).mul_(inverse)


SCALINGS = ('standard', 'row', None)


class ModalityFeatures(nn.Module):
    r"""The item features of the data, scaled once, and the masks of missing ones, as buffers
    outside of the state dict. They share the memory of the data where nothing is scaled or missing.
    A user has a modality if any item of the user does.
    """

    def __init__(self, data: HeteroData, edge_index: Tensor, scaling: str | None = None) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise ValueError(
                f"'feature_scaling' must be 'standard', 'row' or None (got {scaling!r})"
            )
        store, num_items = data['item'], int(data['item'].num_nodes)
        # Sorted: the order numbers layers and critics, and must not depend on the data's.
        self.names: list[str] = sorted(key[2:] for key in store.keys() if key.startswith('x_'))
        self.scaling = scaling
        self._masks: dict[str, Pair] | None = None
        masks: dict[str, Tensor] = {}
        for name in self.names:
            if '.' in name:
                raise ValueError(
                    f"data['item'].x_{name} has a dot in its name, which no parameter may have; "
                    f'rename the modality'
                )
            x = store[f'x_{name}'].detach()
            if x.dim() != 2 or x.size(0) != num_items:
                raise ValueError(
                    f"data['item'].x_{name} must have one row for each of the {num_items} items "
                    f'(got the shape {list(x.shape)})'
                )
            masks[name] = torch.ones(num_items, dtype=torch.bool, device=x.device)
            if f'has_{name}' in store:
                masks[name] = store[f'has_{name}'].bool()
                if masks[name].shape != (num_items,):
                    raise ValueError(
                        f"data['item'].has_{name} must have one entry for each of the {num_items} "
                        f'items (got the shape {list(masks[name].shape)})'
                    )
            x = x.to(torch.get_default_dtype())
            finite = x.isfinite().all(dim=1) | ~masks[name]
            if not bool(finite.all()):
                raise ValueError(
                    f"row {int((~finite).nonzero()[0])} of data['item'].x_{name} holds NaN or "
                    f"infinity; repair it, or mark it as missing in data['item'].has_{name}"
                )
            if scaling == 'standard':
                mean, std = _statistics(x, masks[name])
                self.register_buffer(f'mean_{name}', mean, persistent=False)
                self.register_buffer(f'std_{name}', std, persistent=False)
            # Once standardized, rows of zeros look like others.
            nonzero = masks[name] & (x != 0).any(dim=1)
            self.register_buffer(f'nonzero_{name}', nonzero, persistent=False)
            x = self.scale(name, x, masks[name])
            self.register_buffer(f'x_{name}', x, persistent=False)

        # Where nothing is missing no mask is applied at all.
        self.is_incomplete = not all(bool(mask.all()) for mask in masks.values())
        if self.is_incomplete:
            user, item = edge_index
            for name, has in masks.items():
                user_has = has.new_zeros(int(data['user'].num_nodes))
                user_has[user[has[item]]] = True
                self.register_buffer(f'has_{name}', has, persistent=False)
                self.register_buffer(f'user_has_{name}', user_has, persistent=False)

    def forward(self, name: str, rows: Tensor | None = None) -> Tensor:
        r"""Returns the scaled features of a modality, or the given rows, whether or not dropped."""
        x = getattr(self, f'x_{name}')
        return x if rows is None else x.index_select(0, rows)

    def scale(self, name: str, x: Tensor, has: Tensor) -> Tensor:
        r"""Scales rows of a modality like the data; rows without it become zero."""
        if self.scaling == 'standard':
            x = (x - getattr(self, f'mean_{name}')) / getattr(self, f'std_{name}')
        elif self.scaling == 'row':
            x = F.normalize(x, dim=-1)
        if bool(has.all()):
            return x
        return torch.where(has.unsqueeze(-1), x, torch.zeros_like(x))

    def unscaled(self, name: str) -> Tensor:
        r"""Returns the features before scaling (up to the norm, if scaled by row), zeros where
        missing.
        """
        x = getattr(self, f'x_{name}')
        if self.scaling != 'standard':
            return x
        mean, std = getattr(self, f'mean_{name}'), getattr(self, f'std_{name}')
        x = x * std.masked_fill(std.isinf(), 0.0) + mean
        return torch.where(self.mask(name).unsqueeze(-1), x, torch.zeros_like(x))

    def mask(self, name: str) -> Tensor:
        r"""Returns which items have a modality in the data, ``[num_items]``."""
        if self.is_incomplete:
            return getattr(self, f'has_{name}')
        x = getattr(self, f'x_{name}')
        return torch.ones(x.size(0), dtype=torch.bool, device=x.device)

    def set_masks(self, masks: Mapping[str, Pair] | None) -> dict[str, Pair] | None:
        r"""Sets the masks that replace those of the data in training (:obj:`None` for none), and
        returns the previous ones.
        """
        before, self._masks = self._masks, None if masks is None else dict(masks)
        return before

    @property
    def is_dropping(self) -> bool:
        r"""Whether other masks replace those of the data."""
        return self._masks is not None and self.training

    def present(self, rows: Rows | None = None, user_codes: bool = True) -> dict[str, Pair] | None:
        r"""Returns per modality the masks of users and items, :obj:`None` if nothing is missing."""
        if not self.is_incomplete and not self.is_dropping:
            return None
        out: dict[str, Pair] = {}
        for name in self.names:
            if self.is_dropping:
                assert self._masks is not None
                user, item = self._masks[name]
            else:
                user, item = getattr(self, f'user_has_{name}'), getattr(self, f'has_{name}')
            if rows is not None:
                assert user is not None
                user, item = user[rows.user], item[rows.item]
            out[name] = (user if user_codes else None, item)
        return out

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}({self.names}, scaling={self.scaling!r})'


def available(masks: Sequence[Tensor]) -> Tensor:
    r"""Returns which modalities represent each row, ``[N, M]``: those present or, for a row without
    any, all, as its codes then hold the messages of its neighbors.
    """
    mask = torch.stack(list(masks), dim=1)
    return mask | ~mask.any(dim=1, keepdim=True)


def _statistics(x: Tensor, has: Tensor) -> tuple[Tensor, Tensor]:
    rows = x[has]
    if rows.size(0) == 0:
        return x.new_zeros(x.size(1)), x.new_ones(x.size(1))
    std = rows.std(dim=0, unbiased=False)
    # A constant column becomes zero rather than scaled rounding errors.
    std = torch.where(std > 1e-6 * rows.abs().amax(dim=0), std, torch.inf)
    return rows.mean(dim=0), std


def trained_tables(features: ModalityFeatures) -> nn.ParameterDict:
    r"""Returns a parameter per modality for :func:`reset_tables` to set to the features."""
    return nn.ParameterDict(
        {
            module_key(name): nn.Parameter(torch.empty_like(features(name)))
            for name in features.names
        }
    )


@torch.no_grad()
def reset_tables(tables: nn.ParameterDict, features: ModalityFeatures) -> None:
    r"""Sets trained features to the features of the data."""
    for name in features.names:
        tables[module_key(name)].copy_(features(name))


class FeatureMaps(nn.Module):
    r"""One linear map of the item features per modality. If :obj:`trainable`, the features are
    parameters initialized from the data, as in public code of FREEDOM and MGCN.
    """

    def __init__(
        self,
        features: ModalityFeatures,
        channels: int,
        bias: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.trainable = trainable
        self.lins = nn.ModuleDict()
        for name in features.names:
            width = features(name).size(1)
            self.lins[module_key(name)] = nn.Linear(width, channels, bias=bias)
        self.tables = trained_tables(features) if trainable else nn.ParameterDict()
        self.reset_parameters(features)

    def reset_parameters(self, features: ModalityFeatures) -> None:
        r"""Resets all learnable parameters of the module."""
        for lin in self.lins.values():
            lin.reset_parameters()  # type: ignore[operator]
        if self.trainable:
            reset_tables(self.tables, features)

    def lin(self, name: str) -> nn.Linear:
        r"""Returns the map of a modality."""
        lin = self.lins[module_key(name)]
        assert isinstance(lin, nn.Linear)
        return lin

    def table(self, name: str, features: ModalityFeatures) -> Tensor:
        r"""Returns the features of a modality that are mapped."""
        return self.tables[module_key(name)] if self.trainable else features(name)

    def forward(self, name: str, features: ModalityFeatures, rows: Tensor | None = None) -> Tensor:
        r"""Maps the features of a modality, or the rows asked for."""
        lin, x = self.lin(name), self.table(name, features)
        if rows is None:
            return lin(x)
        out = linear_rows(x, rows, lin.weight)
        return out if lin.bias is None else out + lin.bias
