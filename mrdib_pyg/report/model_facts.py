"""What the checkpoint of a run says together with its data."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
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
    r"""A data set with the ids that its users and items have outside of it."""

    data: HeteroData  # the data
    users: IdMap | None  # the users' own ids
    items: IdMap | None  # the items' own ids

    def item(self, index: int) -> str:
        r"""Returns the own id of an item or, without any, its index."""
        return str(index) if self.items is None else self.items[index]

    def user(self, index: int) -> str:
        r"""Returns the own id of a user or, without any, the index."""
        return str(index) if self.users is None else self.users[index]


class Shared(NamedTuple):
    r"""What the item codes of two modalities have in common."""

    names: tuple[str, str]  # the modalities
    nats: float  # their mutual information, were they jointly Gaussian
    cka: float  # their linear centered kernel alignment, from 0 to 1
    num_items: int  # the items with both modalities


class Width(NamedTuple):
    r"""How far the posteriors of one bottleneck are from the prior, over the items that have it."""

    name: str  # the modality, or `'fused'`
    kl: np.ndarray  # mean KL in nats by dimension, `[C]`
    std: np.ndarray  # geometric mean of the standard deviation by dimension, `[C]`
    spread: np.ndarray  # standard deviation of the mean over items by dimension, `[C]`
    items: np.ndarray  # KL in nats by item, summed over dimensions, `[N]`


class Ranked(NamedTuple):
    r"""One recommendation."""

    item: int  # the index of the item
    score: float  # its score
    is_test: bool  # whether it is among the user's held-out test items


class ModelFacts(NamedTuple):
    r"""What the model of a run and its data say."""

    source: NamedData  # the data
    counts: dict[str, int]  # sizes of the data set
    map: list[dict[str, Any]]  # points of the map of item codes, see `points`
    num_mapped: int  # the number of items in the map
    shared: list[Shared]  # what the codes of two modalities have in common
    widths: list[Width]  # the posteriors; empty for a model without bottleneck
    recommendations: dict[int, list[Ranked]]  # the best items of each chosen user
    # explanations of the first of them, by user, with the users' and items' own ids
    explanations: dict[int, list[PairExplanation]]
    unexplained: str | None  # why there are no explanations


def load_named_data(run: RunFolder, dataset: str | None) -> NamedData:
    r"""Loads the data of a run.

    Raises:
        ValueError: If they have moved and :obj:`dataset` is not given, or cannot be read.
    """
    name = run.config.get('dataset') if dataset is None else dataset
    if not isinstance(name, str) or (name not in DATASETS and not os.path.isdir(name)):
        raise ValueError(f"the data of this run, '{name}', have moved; name them by --dataset")
    data = load_dataset(name)
    # A name wins over a folder of the same name, as it does for the data.
    is_named = name in DATASETS
    users, items = (None if is_named else IdMap.load(name, kind) for kind in ('user', 'item'))
    # An id map of another size belongs to other data: indices say less, but nothing wrong.
    if users is not None and len(users) != data['user'].num_nodes:
        users = None
    if items is not None and len(items) != data['item'].num_nodes:
        items = None
    return NamedData(data, users, items)


def choose_users(
    source: NamedData, wanted: Sequence[str] | None, number: int, seed: int
) -> list[int]:
    r"""Returns the indices of users: those that are asked for or, without any, some with test
    items, at random.

    Raises:
        ValueError: If there is no such user.
    """
    num_users = int(source.data['user'].num_nodes)
    if wanted is None:
        seen = source.data['user', 'rates', 'item'].edge_index[0].unique()
        held_out = _held_out(source.data)[0].unique()
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
    r"""Loads the best model of a run and looks into it.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
        ValueError: If the checkpoint is torn or belongs to other data.
    """
    model, _ = load_model(run.path / 'best.pt', source.data, cls)
    with torch.no_grad():
        posteriors, fused = _posteriors(model)
    present = _present(model)
    codes = {name: posterior.mu for name, posterior in posteriors.items()}
    points, num_mapped = _map(codes, present, source, method, num_items, seed)
    widths = [_width(name, code, present[name]) for name, code in posteriors.items()]
    if fused is not None:
        widths.append(_width('fused', fused, torch.ones(model.num_items, dtype=torch.bool)))
    recommendations = _recommend(model, source.data, users, k)
    explanations, unexplained = _explain(model, source, recommendations)
    edges = source.data['user', 'rates', 'item'].edge_index
    counts = {
        'users': model.num_users,
        'items': model.num_items,
        'training interactions': int(edges.size(1)),
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
    r"""Returns the posterior of the items per modality, and that of the fusion if it has one."""
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

    scale = x.std() or 1.0
    if method == 'pca':
        place = PCA(2, random_state=seed).fit_transform(x / scale)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(x) - 1) / 3)
        place = TSNE(
            2, perplexity=perplexity, init='pca', learning_rate='auto', random_state=seed
        ).fit_transform(x / scale)
    users = torch.bincount(
        source.data['user', 'rates', 'item'].edge_index[1],
        minlength=int(source.data['item'].num_nodes),
    )
    rows = []
    for m, name in enumerate(codes):
        for row, item in enumerate(items.tolist()):
            point = place[m * len(items) + row]
            rows.append(
                {
                    'x': round(float(point[0]), 2), 'y': round(float(point[1]), 2),
                    'item': source.item(item), 'modality': name, 'users': int(users[item]),
                }
            )  # fmt: skip
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
        return None
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
    model: Recommender, data: HeteroData, users: Sequence[int], k: int
) -> dict[int, list[Ranked]]:
    if len(users) == 0:
        return {}
    score, item = model.recommend(torch.tensor(users), k=min(k, model.num_items))
    test = _held_out(data)
    out = {}
    for user, items, scores in zip(users, item.tolist(), score.tolist()):
        held_out = set(test[1, test[0] == user].tolist())
        out[user] = [Ranked(i, s, i in held_out) for i, s in zip(items, scores) if i >= 0]
    return out


def _explain(
    model: Recommender, source: NamedData, recommendations: Mapping[int, Sequence[Ranked]]
) -> tuple[dict[int, list[PairExplanation]], str | None]:
    r"""Explains the first items of each user, or says why that cannot be done."""
    pairs = [(user, x.item) for user, r in recommendations.items() for x in r[:NUM_EXPLAINED]]
    if not pairs:
        return {}, None
    try:
        explained = PIDExplainer(model, source.data)(*torch.tensor(pairs).unbind(dim=1))
    except (TypeError, ValueError) as e:  # no modality, or no validation edges
        return {}, f'These items cannot be explained: {e}.'
    out: dict[int, list[PairExplanation]] = {}
    for (user, item), x in zip(pairs, explained):
        named = x._replace(user=source.user(user), item=source.item(item))
        out.setdefault(user, []).append(named)
    return out, None


def _held_out(data: HeteroData) -> Tensor:
    if ('user', 'test', 'item') not in data.edge_types:
        return torch.empty(2, 0, dtype=torch.long)
    return data['user', 'test', 'item'].edge_label_index
