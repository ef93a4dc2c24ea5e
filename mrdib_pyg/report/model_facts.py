"""What a report reads from the checkpoint of a run: codes, posteriors, recommendations."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import DATASETS, IdMap, load_dataset
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.bottleneck import Posterior
from mrdib_pyg.nn.models import Recommender
from mrdib_pyg.nn.mutual_information import Gaussian
from mrdib_pyg.pid import PIDExplainer
from mrdib_pyg.pid._explain import PairExplanation
from mrdib_pyg.report.runs import RunFolder
from mrdib_pyg.training import load_model

NUM_EXPLAINED = 3  # of the best items of a user


class NamedData(NamedTuple):
    r"""A data set with the raw ids of its users and items, if it has any."""

    data: HeteroData
    users: IdMap | None
    items: IdMap | None

    def user(self, index: int) -> str:
        r"""The raw id of a user, else the index."""
        return str(index) if self.users is None else self.users[index]

    def item(self, index: int) -> str:
        r"""The raw id of an item, else the index."""
        return str(index) if self.items is None else self.items[index]

    def edges(self, split: str) -> Tensor:
        r"""The training or test edges, ``[2, n]``; none where the data have no test edges."""
        if split == 'train':
            return self.data['user', 'rates', 'item'].edge_index
        if ('user', 'test', 'item') not in self.data.edge_types:
            return torch.empty(2, 0, dtype=torch.long)
        return self.data['user', 'test', 'item'].edge_label_index

    def items_of(self, user: int, split: str) -> list[int]:
        r"""The items of a user, ascending."""
        edges = self.edges(split)
        return edges[1, edges[0] == user].unique().tolist()

    def popularity(self) -> Tensor:
        r"""The number of training edges of each item, ``[I]``."""
        return torch.bincount(self.edges('train')[1], minlength=int(self.data['item'].num_nodes))


class Shared(NamedTuple):
    r"""How much the item codes of two modalities share."""

    names: tuple[str, str]
    nats: float  # mutual information of Gaussians with their covariance
    cka: float  # linear centered kernel alignment, from 0 to 1
    num_items: int  # with both modalities


class Width(NamedTuple):
    r"""How far the item posteriors of one bottleneck are from the prior."""

    name: str  # the modality, or `'fused'`
    kl: np.ndarray  # mean KL in nats by dimension, `[C]`
    std: np.ndarray  # geometric mean of the standard deviation by dimension, `[C]`
    spread: np.ndarray  # standard deviation of the mean over items by dimension, `[C]`
    items: np.ndarray  # KL in nats by item, summed over dimensions, `[N]`


class Ranked(NamedTuple):
    r"""One recommended item."""

    item: int
    is_test: bool  # a held-out test item of the user


class ModelFacts(NamedTuple):
    r"""What one model contributes to the report."""

    source: NamedData
    counts: dict[str, int]  # sizes of the data set
    map: list[dict[str, Any]]  # rows of `charts.points`
    num_mapped: int  # items in the map
    shared: list[Shared]  # one per pair of modalities
    widths: list[Width]  # one per bottleneck
    recommendations: dict[int, list[Ranked]]  # by chosen user
    explanations: dict[int, list[PairExplanation]]  # of the first items, by user, with raw ids
    unexplained: str | None  # why there are no explanations


def load_named_data(run: RunFolder, dataset: str | None) -> NamedData:
    r"""Loads the data of a run, from ``dataset`` where they have moved."""
    name = run.config.get('dataset') if dataset is None else dataset
    if not isinstance(name, str) or (name not in DATASETS and not os.path.isdir(name)):
        raise ValueError(f"the data of this run, '{name}', have moved; name them by --dataset")
    data = load_dataset(name)
    maps: list[IdMap | None] = []
    for kind in ('user', 'item'):
        # A name wins over a folder of the same name, as it does for the data.
        ids = None if name in DATASETS else IdMap.load(name, kind)
        # An id map of another size belongs to other data. Indices are never wrong.
        maps.append(ids if ids is not None and len(ids) == data[kind].num_nodes else None)
    return NamedData(data, *maps)


def choose_users(
    source: NamedData, wanted: Sequence[str] | None, number: int, seed: int
) -> list[int]:
    r"""Returns the indices of the wanted users or, without any, of random ones with test items."""
    num_users = int(source.data['user'].num_nodes)
    if wanted is None:
        seen, held_out = (source.edges(split)[0].unique() for split in ('train', 'test'))
        candidates = held_out[torch.isin(held_out, seen)]
        candidates = seen if candidates.numel() == 0 else candidates
        order = torch.randperm(candidates.numel(), generator=torch.Generator().manual_seed(seed))
        return sorted(candidates[order[:number]].tolist())
    out = []
    for text in wanted:
        if source.users is None or text not in source.users:
            text = text.strip()  # white space only counts where an id has it
        if source.users is not None and text in source.users:
            index = source.users.index(text)
        elif source.users is None and text.isdecimal() and int(text) < num_users:
            index = int(text)
        else:
            known = f'ids from 0 to {num_users - 1}'
            if source.users is not None:
                known = f"raw ids of the data, such as '{source.users[0]}'"
            raise ValueError(f"--users must be {known} (got '{text}')")
        if index not in out:
            out.append(index)
    return out


def look_into(
    run: RunFolder,
    source: NamedData,
    users: Sequence[int],
    *,
    k: int = 10,
    method: str = 'tsne',
    num_items: int = 400,
    seed: int = 0,
    cls: type[Recommender] | None = None,
) -> ModelFacts:
    r"""Loads the best model of a run and reads everything the report shows of it."""
    model, _ = load_model(run.path / 'best.pt', source.data, cls)
    with torch.no_grad():
        posteriors, fused = _posteriors(model)
    present = _present(model)
    codes = {name: posterior.mu for name, posterior in posteriors.items()}
    points, num_mapped = _map(codes, present, source, method, num_items, seed)
    widths = [_width(name, code, present[name]) for name, code in posteriors.items()]
    if fused is not None:
        widths.append(_width('fused', fused, torch.ones(model.num_items, dtype=torch.bool)))
    recommendations = _recommend(model, source, users, k)
    explanations, unexplained = _explain(model, source, recommendations)
    counts = {
        'users': model.num_users,
        'items': model.num_items,
        'training interactions': source.edges('train').size(1),
    }
    return ModelFacts(
        source,
        counts,
        points,
        num_mapped,
        _shared(codes, present),
        [width for width in widths if width is not None],
        recommendations,
        explanations,
        unexplained,
    )


def _posteriors(model: Recommender) -> tuple[dict[str, Posterior], Posterior | None]:
    r"""The posterior of the items by modality, and that of the fused bottleneck if there is one."""
    if not model.multimodal:
        return {}, None
    x = model.modality_embeddings()
    if not isinstance(model.mrdib, MRdIB):  # a control leaves the codes as they are in evaluation
        return {name: Posterior(item, item) for name, (_, item) in x.items()}, None
    encoded: Mapping[str, Any] = model.mrdib(x)
    out = {name: pair[1] for name, pair in encoded.items()}
    if model.mrdib.fused_bottleneck is None:
        return out, None
    codes = {name: (None if u is None else u.z, i.z) for name, (u, i) in encoded.items()}
    embeddings = model.fuse(encoded if model.fuse_posteriors else codes)
    fused: Any = model.mrdib.encode_fused((embeddings.user, embeddings.item))
    return out, fused[1]


def _present(model: Recommender) -> dict[str, Tensor]:
    present = model.present()
    if present is None:
        return {name: torch.ones(model.num_items, dtype=torch.bool) for name in model.modalities}
    return {name: pair[1] for name, pair in present.items()}


def _map(
    codes: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    source: NamedData,
    method: str,
    num_items: int,
    seed: int,
) -> tuple[list[dict[str, Any]], int]:
    if not codes or len({code.size(1) for code in codes.values()}) > 1:
        return [], 0  # codes of different widths lie in no common space
    items = torch.stack([present[name] for name in codes]).all(dim=0).nonzero().flatten()
    order = torch.randperm(items.numel(), generator=torch.Generator().manual_seed(seed))
    items = items[order[:num_items]].sort().values
    x = torch.cat([code[items] for code in codes.values()]).double().numpy()
    if len(items) < 3 or not np.isfinite(x).all():
        return [], 0
    x = x - x.mean(axis=0)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduce: Any = PCA(2, random_state=seed)
    if method == 'tsne':
        perplexity = min(30.0, (len(x) - 1) / 3)
        reduce = TSNE(2, perplexity=perplexity, init='pca', learning_rate='auto', random_state=seed)
    place = reduce.fit_transform(x / (x.std() or 1.0))
    users = source.popularity()
    rows = [
        {
            'x': round(float(x), 2), 'y': round(float(y), 2),
            'item': source.item(item), 'modality': name, 'users': int(users[item]),
        }
        for (name, item), (x, y) in zip(product(codes, items.tolist()), place)
    ]  # fmt: skip
    return rows, len(items)


def _shared(codes: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[Shared]:
    out = []
    for first, second in combinations(codes, 2):
        both = present[first] & present[second]
        x, y = codes[first][both].double(), codes[second][both].double()
        if len(x) < 2:
            continue
        nats = float(Gaussian(x.size(1), y.size(1))(x, y))
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        norm = (x.t() @ x).norm() * (y.t() @ y).norm()
        cka = float((x.t() @ y).square().sum() / norm) if norm > 0 else 0.0
        out.append(Shared((first, second), nats, cka, len(x)))
    return out


def _width(name: str, code: Posterior, present: Tensor) -> Width | None:
    if code.logstd is None or not bool(present.any()):
        return None  # no bottleneck, or no item to read
    mu, logstd = code.mu[present].double(), code.logstd[present].double()
    kl = 0.5 * (mu.square() + (2 * logstd).exp() - 1) - logstd
    return Width(
        name,
        kl.mean(dim=0).numpy(),
        logstd.mean(dim=0).exp().numpy(),
        mu.std(dim=0, unbiased=False).numpy(),
        kl.sum(dim=1).numpy(),
    )


def _recommend(
    model: Recommender, source: NamedData, users: Sequence[int], k: int
) -> dict[int, list[Ranked]]:
    if len(users) == 0:
        return {}
    _, item = model.recommend(torch.tensor(users), k=min(k, model.num_items))
    out = {}
    for user, items in zip(users, item.tolist()):
        held_out = set(source.items_of(user, 'test'))
        out[user] = [Ranked(i, i in held_out) for i in items if i >= 0]
    return out


def _explain(
    model: Recommender, source: NamedData, recommendations: Mapping[int, Sequence[Ranked]]
) -> tuple[dict[int, list[PairExplanation]], str | None]:
    r"""Explains the first items of each user, or returns why the model cannot be explained."""
    pairs = [(user, x.item) for user, r in recommendations.items() for x in r[:NUM_EXPLAINED]]
    if not pairs:
        return {}, None
    try:
        explained = PIDExplainer(model, source.data)(*torch.tensor(pairs).unbind(dim=1))
    except (TypeError, ValueError) as e:  # no modality, or no validation edges
        return {}, f'These items have no explanation: {e}.'
    out: dict[int, list[PairExplanation]] = {}
    for (user, item), x in zip(pairs, explained):
        named = x._replace(user=source.user(user), item=source.item(item))
        out.setdefault(user, []).append(named)
    return out, None
