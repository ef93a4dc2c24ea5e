import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData, InMemoryDataset

from mrdib_pyg.datasets._read import shown
from mrdib_pyg.datasets.folder import InteractionFolder, array_files, data_hash, write_folder
from mrdib_pyg.interactions import TRAIN_EDGE

KINDS = ('v', 't', 'r', 's')
BITS = 4  # of each kind

# The weight of each kind of information, for the names accepted as `case`. The parts of 'v+r' and
# 'v+s' have unequal weights; those of 'v+t' are equal on purpose (see `Planted`).
CASES: dict[str, dict[str, float]] = {
    'v': {'v': 1.0},
    't': {'t': 1.0},
    'r': {'r': 1.0},
    's': {'s': 1.0},
    'v+r': {'v': 1.0, 'r': 0.5},
    'v+s': {'v': 1.0, 's': 0.5},
    'v+t': {'v': 1.0, 't': 1.0},
}


class Oracle(NamedTuple):
    r"""Vectors whose inner product is the true utility, evaluated like a model by :meth:`embed`."""

    user: Tensor
    item: Tensor

    def embed(self) -> 'Oracle':
        return self


class Planted(InMemoryDataset):
    r"""Generated interactions with two modalities and a known answer: which preferences of users
    are unique to a modality, redundant or synergistic.

    Each item has hidden bits :math:`\pm 1`, four of each kind: :math:`a_v` only in the image,
    :math:`a_t` only in the text, :math:`a_r` in both, :math:`b_v` in the image and :math:`b_t` in
    the text. Only the product :math:`s = b_v b_t` of the last two matters:

    .. math::
        \mathrm{utility}(u, i) = \langle p_u, [w_v a_v, w_t a_t, w_r a_r, w_s s]_i \rangle ,
        \quad p_u \sim \mathcal{N}(0, I_{16})

    A user takes the :obj:`num_interactions` items with the largest utility plus standard Gumbel
    noise (draws without replacement, in proportion to :math:`\exp(\mathrm{utility})`), which are
    split at random 60/20/20. The features of a modality are

    .. math::
        x_m = 2 A_m [\text{its 12 bits}] + 2 \cdot \mathrm{noise} \cdot B_m [n, n_m]
        + 0.1\, \epsilon

    with 16 nuisance dimensions :math:`n` shared by both modalities and 16 of its own
    :math:`n_m`, all standard normal, and matrices with entries
    :math:`\mathcal{N}(0, 1/k)` for :math:`k` inputs.

    The same arguments give the same data in every process, whatever the global random state.
    :obj:`noise`, :obj:`weights` and :obj:`missing` do not affect the draws of each other.

    .. note::
        :obj:`case='v+t'` is a counter-example. Two symmetric, additive, independent parts have no
        unique information under the MMI and BROJA decompositions: they count as redundant and
        synergistic.

    Args:
        root (str, optional): A folder to which the data are also written, in the layout of
            :class:`InteractionFolder`. (default: :obj:`None`)
        transform (callable, optional): A transform of the :class:`HeteroData`, applied at every
            access. (default: :obj:`None`)
        pre_transform (callable, optional): A transform of the :class:`HeteroData`, applied once.
            (default: :obj:`None`)
        force_reload (bool, optional): If set to :obj:`True`, replaces other data in :obj:`root`,
            which otherwise raise an error. (default: :obj:`False`)
        num_users (int, optional): Number of users. (default: :obj:`1500`)
        num_items (int, optional): Number of items. (default: :obj:`1200`)
        num_interactions (int, optional): Interactions of each user, at least 5.
            (default: :obj:`20`)
        noise (float, optional): Strength of the nuisance relative to the bits.
            (default: :obj:`3.0`)
        case (str, optional): A named choice of weights: :obj:`'v'`, :obj:`'t'`, :obj:`'r'`,
            :obj:`'s'`, :obj:`'v+r'`, :obj:`'v+s'` (second weight 0.5) or :obj:`'v+t'`.
            (default: :obj:`None`)
        weights (dict, optional): The weights :math:`w` by kind, :obj:`'v'`, :obj:`'t'`,
            :obj:`'r'`, :obj:`'s'`, 0 for kinds that are not named.
            (default: :obj:`None`, all 1 without :obj:`case`)
        missing (float, optional): The fraction of items without image, and independently of items
            without text. Their features are zero and ``data['item'].has_<modality>`` is
            :obj:`False`. (default: :obj:`0.0`)
        seed (int, optional): Seed of all draws. (default: :obj:`0`)

    Attributes:
        weights (dict): The weight of each of the four kinds.
        bits (dict): ``float32`` ``[num_items, 4]`` each: :obj:`'v'`, :obj:`'t'`, :obj:`'r'`,
            :obj:`'bv'`, :obj:`'bt'` and their product :obj:`'s'`.
        preference (dict): The users' linear functions by kind, ``float32`` ``[num_users, 4]``.

    **STATS** (of the defaults):

    .. list-table::
        :widths: 10 10 12 12 12 20 24
        :header-rows: 1

        * - #users
          - #items
          - #train
          - #val
          - #test
          - Features
          - NDCG@10 of the oracle
        * - 1,500
          - 1,200
          - 18,000
          - 6,000
          - 6,000
          - image 64, text 48
          - .446 (train items masked), .540 (train and validation)
    """

    channels = {'image': 64, 'text': 48}

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        transform: Callable | None = None,
        pre_transform: Callable | None = None,
        force_reload: bool = False,
        *,
        num_users: int = 1500,
        num_items: int = 1200,
        num_interactions: int = 20,
        noise: float = 3.0,
        case: str | None = None,
        weights: Mapping[str, float] | None = None,
        missing: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(None, transform, pre_transform, force_reload=force_reload)
        self.weights = _resolve_weights(case, weights)
        if num_users < 1:
            raise ValueError(f"'num_users' must be at least 1 (got {num_users})")
        if not 5 <= num_interactions <= num_items:
            raise ValueError(
                f"'num_interactions' must be at least 5, to be split 60/20/20, and at most "
                f"'num_items' = {num_items} (got {num_interactions})"
            )
        if not 0.0 <= noise < float('inf'):
            raise ValueError(f"'noise' must be finite and non-negative (got {noise})")
        if not 0.0 <= missing < 1.0:
            raise ValueError(f"'missing' must be a fraction in [0, 1) (got {missing})")

        # Double precision keeps rounding from reordering the items of a user. Only the sizes change
        # the order of draws, so that settings can be compared.
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        size = (num_items, BITS)
        bits = {
            name: torch.randint(2, size, generator=generator).double() * 2 - 1
            for name in ('v', 't', 'r', 'bv', 'bt')
        }
        bits['s'] = bits['bv'] * bits['bt']
        preference = {kind: normal(num_users, BITS) for kind in KINDS}
        seen = {'image': ('v', 'r', 'bv'), 'text': ('t', 'r', 'bt')}
        shared = normal(num_items, 16)
        x = {}
        for name, channels in self.channels.items():
            signal = torch.cat([bits[kind] for kind in seen[name]], dim=-1)
            nuisance = torch.cat([shared, normal(num_items, 16)], dim=-1)
            x[name] = 2 * signal @ (normal(signal.size(1), channels) / signal.size(1) ** 0.5)
            x[name] += 2 * noise * nuisance @ (normal(nuisance.size(1), channels) / 32**0.5)
            x[name] += 0.1 * normal(num_items, channels)

        self.bits = {name: value.float() for name, value in bits.items()}
        self.preference = {kind: value.float() for kind, value in preference.items()}

        utility = torch.zeros(num_users, num_items, dtype=torch.float64)
        for kind, weight in self.weights.items():
            utility += weight * preference[kind] @ bits[kind].t()
        # The largest k of utility + Gumbel noise are k draws without replacement.
        utility -= torch.empty_like(utility).exponential_(generator=generator).log_()
        taken = utility.topk(num_interactions, dim=-1).indices
        # The largest come first, so they are shuffled before they are split.
        order = torch.rand(taken.size(), generator=generator, dtype=torch.float64).argsort(dim=-1)
        num_held_out = round(0.2 * num_interactions)
        sizes = [num_interactions - 2 * num_held_out, num_held_out, num_held_out]
        train, val, test = taken.gather(1, order).split(sizes, dim=-1)

        data = HeteroData()
        data.name = 'planted'
        data['user'].num_nodes, data['item'].num_nodes = num_users, num_items
        for name, value in x.items():
            data['item'][f'x_{name}'] = value.float()
            if missing > 0.0:
                without = torch.randperm(num_items, generator=generator)
                without = without[: round(missing * num_items)]
                data['item'][f'x_{name}'][without] = 0.0
                data['item'][f'has_{name}'] = torch.ones(num_items, dtype=torch.bool)
                data['item'][f'has_{name}'][without] = False
        data[TRAIN_EDGE].edge_index = _to_edges(train)
        data['user', 'val', 'item'].edge_label_index = _to_edges(val)
        data['user', 'test', 'item'].edge_label_index = _to_edges(test)

        if root is not None:
            _write(data, Path(root).expanduser(), force_reload)
        if pre_transform is not None:
            data = pre_transform(data)
        self._data, self.slices = self.collate([data])

    def utility(self, kind: str | None = None) -> Tensor:
        r"""The true utility ``[num_users, num_items]``, or the part of one :obj:`kind`."""
        kinds = KINDS if kind is None else (kind,)
        return torch.stack(
            [self.weights[kind] * self.preference[kind] @ self.bits[kind].t() for kind in kinds]
        ).sum(dim=0)

    def oracle(self) -> Oracle:
        r"""Vectors of users ``[num_users, 16]`` and items ``[num_items, 16]``:
        ``oracle().user @ oracle().item.t()`` is the true utility.
        """
        return Oracle(
            torch.cat([self.preference[kind] for kind in KINDS], dim=-1),
            torch.cat([self.weights[kind] * self.bits[kind] for kind in KINDS], dim=-1),
        )

    def __repr__(self) -> str:
        weights = ', '.join(f'{kind}={weight:g}' for kind, weight in self.weights.items())
        return f'{self.__class__.__name__}({weights})'


def _resolve_weights(case: str | None, weights: Mapping[str, float] | None) -> dict[str, float]:
    if case is not None and weights is not None:
        raise ValueError(f"'case' must be None with 'weights' (got {case!r})")
    if case is not None:
        if case not in CASES:
            raise ValueError(f"'case' must be one of {list(CASES)} (got {case!r})")
        weights = CASES[case]
    elif weights is None:
        weights = dict.fromkeys(KINDS, 1.0)
    unknown = [kind for kind in weights if kind not in KINDS]
    if unknown or not all(math.isfinite(weight) for weight in weights.values()):
        raise ValueError(f"'weights' must hold finite numbers for kinds of {KINDS} (got {weights})")
    return {kind: float(weights.get(kind, 0.0)) for kind in KINDS}


def _to_edges(item: Tensor) -> Tensor:
    user = torch.arange(item.size(0)).view(-1, 1).expand_as(item)
    return torch.stack([user.flatten(), item.sort(dim=-1).values.flatten()])


def _write(data: HeteroData, root: Path, force_reload: bool) -> None:
    if os.path.lexists(root / f'{data.name}.inter') and not force_reload:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the counts are intended
            found = InteractionFolder(root)[0]
        if data_hash(found) != data_hash(data):
            raise ValueError(
                f"'root' must not hold other planted data (got {shown(root)}); choose another "
                f'folder, or replace them with force_reload=True'
            )
        return
    for path in array_files(root) if root.is_dir() else []:  # of other data that it held
        path.unlink()
    write_folder(data, root)
