r"""The models that are timed: this package's, the common implementation of each, PyG's LightGCN and
cornac's VBPR, all of them behind the same three calls (a step, an epoch, an evaluation).
"""

import copy
import functools
import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData
from torch_geometric.nn import LightGCN

from benchmarks.schema import (
    COMMON,
    COMMON_FROZEN,
    OURS,
    OURS_COMPILED,
    OURS_MRDIB,
    OURS_MRDIB_COMPILED,
    OURS_TRAINED,
)
from benchmarks.training.common.loop import CommonLoop
from benchmarks.training.common.models import COMMON_MODELS
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS, Recommender, Triplets
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges
from mrdib_pyg.training import fit
from mrdib_pyg.training.step import LossWeights, make_adam, make_train_step

BATCH_SIZE = 2_048
#: The settings of each model, for this package's and for the common implementation alike.
SETTINGS: dict[str, dict[str, Any]] = {
    'lightgcn': {'num_layers': 2},
    'vbpr': {},
    'mmgcn': {'num_layers': 2},
    'freedom': {'edge_dropout': 0.8},
    'bm3': {'num_layers': 1, 'dropout': 0.5},
    'mgcn': {'num_layers': 2},
}
#: The form of the item graphs that a model reads.
ITEM_GRAPHS = {'freedom': 'binary', 'mgcn': 'similarity', 'soil': 'similarity'}
WEIGHTS = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}

ROLES = {
    **dict.fromkeys((OURS, OURS_MRDIB, OURS_TRAINED, OURS_COMPILED, OURS_MRDIB_COMPILED), 'ours'),
    COMMON: 'baseline',
}

Batch = tuple[Tensor, Tensor, Tensor]


class Subject(NamedTuple):
    r"""What is timed of one implementation; a call that it has not is :obj:`None`."""

    step: Callable[[Batch], Any] | None
    epoch: Callable[[], Any] | None
    evaluate: Callable[[str], Any] | None
    model: Recommender | None = None


class Ours:
    r"""A model of this package, trained by :func:`~mrdib_pyg.training.fit`."""

    def __init__(
        self,
        model: Recommender,
        data: HeteroData,
        mrdib: bool,
        epochs: int = 1,
        compile: bool = False,
    ) -> None:
        self.model, self.data, self.epochs, self.compile = model, data, epochs, compile
        self.weights = WEIGHTS if mrdib else None
        weighting = LossWeights(model.loss_weights, self.weights)
        optimizer = make_adam(list(model.parameters()), lr=1e-3, compile=compile)
        size = BATCH_SIZE if compile else None
        self.train_step = make_train_step(model, weighting, optimizer, size)
        # An epoch is timed without the evaluation that follows it.
        self.train_data = copy.copy(data)
        empty = torch.empty(2, 0, dtype=torch.long)
        self.train_data['user', 'val', 'item'].edge_label_index = empty
        model.train()
        model.on_epoch_start(1, torch.Generator(model.train_edge_index.device).manual_seed(0))

    def step(self, batch: Batch) -> Tensor:
        if not self.model.training:
            self.model.train()
        return self.train_step(Triplets(*batch))['loss']

    def epoch(self) -> Any:
        return fit(
            self.model,
            self.train_data,
            epochs=self.epochs,
            batch_size=BATCH_SIZE,
            weights=self.weights,
            compile=self.compile,
            progress=False,
        )

    def evaluate(self, split: str) -> dict[str, float]:
        self.model.train()
        self.model.eval()  # forgets the embeddings: they are computed once for each evaluation
        cutoffs = [k for k in (5, 10, 20, 50) if k <= self.model.num_items]
        return evaluate(self.model, self.data, split, k=cutoffs)


class PyGLightGCN:
    r"""PyG's own :class:`~torch_geometric.nn.LightGCN`, trained on edge indices as its
    documentation does: negatives drawn uniformly, embeddings propagated in every step.
    """

    name = 'torch_geometric.nn.LightGCN'

    def __init__(self, data: HeteroData, device: str = 'cpu', num_layers: int = 2) -> None:
        self.num_users = int(data['user'].num_nodes)
        self.num_items = int(data['item'].num_nodes)
        user, item = data['user', 'rates', 'item'].edge_index
        self.edges = torch.stack([user, item + self.num_users])
        self.edge_index = torch.cat([self.edges, self.edges.flip(0)], dim=1)
        self.model = LightGCN(self.num_users + self.num_items, 64, num_layers).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self, user: Tensor, pos: Tensor, neg: Tensor) -> float:
        pos, neg = pos + self.num_users, neg + self.num_users
        label = torch.stack([torch.cat([user, user]), torch.cat([pos, neg])])
        self.optimizer.zero_grad()
        pos_rank, neg_rank = self.model(self.edge_index, label).chunk(2)
        loss = self.model.recommendation_loss(pos_rank, neg_rank, node_id=label.unique())
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self, batch_size: int = 2048) -> None:
        self.model.train()
        order = torch.randperm(self.edges.size(1)).to(self.edges.device)
        for user, pos in (b for b in self.edges[:, order].split(batch_size, dim=1)):
            neg = torch.randint(self.num_items, user.shape, device=user.device)
            self.step(user, pos - self.num_users, neg)


class CornacVBPR:
    r"""The VBPR of cornac, where it is installed: one epoch of its training on the same edges, with
    the features of all modalities side by side.

    Its paper's model, with biases; batches of the same size.
    """

    name = 'cornac VBPR'

    @staticmethod
    def missing(device: str) -> str | None:
        r"""Returns why it cannot be timed here, if it cannot."""
        if torch.device(device).type != 'cpu':
            return 'timed on CPU only'
        return None if find_spec('cornac') is not None else 'not installed'

    def __init__(self, data: HeteroData) -> None:
        import cornac
        from cornac.data import Dataset, ImageModality

        edges = data['user', 'rates', 'item'].edge_index.t().tolist()
        names = [key for key in data['item'].keys() if key.startswith('x_')]
        features = torch.cat([data['item'][name] for name in names], dim=-1).numpy()
        ids = list(range(features.shape[0]))
        self.train_set = Dataset.from_uir([(u, i, 1.0) for u, i in edges], seed=0)
        modality = ImageModality(features=features, ids=ids, normalized=False)
        modality.build(id_map=self.train_set.iid_map)
        self.train_set.add_modalities(item_image=modality)
        self.make: Any = lambda: cornac.models.VBPR(
            k=64, k2=64, n_epochs=1, batch_size=2048, learning_rate=1e-3, verbose=False, seed=0
        )

    def epoch(self) -> None:
        self.make().fit(self.train_set)


def with_item_graphs(data: HeteroData, name: str) -> HeteroData:
    r"""Returns the data with the item graphs that a model would otherwise make for each variant."""
    if name not in ITEM_GRAPHS or name not in MODELS:
        return data
    transforms = importlib.import_module('mrdib_pyg.transforms')
    return transforms.ItemKNN(10, form=ITEM_GRAPHS[name])(copy.copy(data))


def make_model(name: str, data: HeteroData, **settings: Any) -> Recommender:
    seed_everything(0)
    return MODELS[name](data, **{**SETTINGS.get(name, {}), **settings})


def subjects(
    name: str, data: HeteroData, device: str = 'cpu', epochs: int = 1
) -> tuple[dict[str, Callable[[], Subject]], dict[str, str]]:
    r"""Returns how to make what is to be timed of a model, by method, and what is missing and why.

    Args:
        name (str): A name in :obj:`~mrdib_pyg.nn.models.MODELS` or :obj:`COMMON_MODELS`.
        data (HeteroData): The data, on the device.
        device (str, optional): The device. (default: :obj:`'cpu'`)
        epochs (int, optional): The epochs of one call of ``epoch``. (default: :obj:`1`)
    """
    make: dict[str, Callable[[], Subject]] = {}
    missing: dict[str, str] = {}
    if name in MODELS:
        graphs_of = functools.cache(functools.partial(with_item_graphs, data, name))

        def ours(mrdib: bool, compile: bool = False, **settings: Any) -> Subject:
            # `mrdib` is named only where it is asked for: some models have none.
            kwargs = {**settings, **({'mrdib': {}} if mrdib else {})}
            graphs = graphs_of()
            model = make_model(name, graphs, **kwargs).to(device)
            subject = Ours(model, graphs, mrdib, epochs, compile)
            return Subject(subject.step, subject.epoch, subject.evaluate, model)

        make[OURS] = lambda: ours(False)
        if MODELS[name].multimodal:
            make[OURS_MRDIB] = lambda: ours(True)
        if device == 'cuda':  # on CPU nothing waits for the launch of a kernel
            make[OURS_COMPILED] = lambda: ours(False, compile=True)
            if MODELS[name].multimodal:
                make[OURS_MRDIB_COMPILED] = lambda: ours(True, compile=True)
        if 'trainable_features' in inspect.signature(MODELS[name].__init__).parameters:
            make[OURS_TRAINED] = lambda: ours(False, trainable_features=True)
    else:
        missing[OURS] = f"'{name}' is not in mrdib_pyg.nn.models.MODELS"
    if name in COMMON_MODELS:

        def common(**settings: Any) -> Subject:
            seed_everything(0)
            model = COMMON_MODELS[name](data, **{**SETTINGS.get(name, {}), **settings})
            loop = CommonLoop(model.to(device), data, BATCH_SIZE)
            model.train()
            model.on_epoch_start()
            return Subject(
                lambda batch: loop.step(*batch), _repeat(loop.epoch, epochs), loop.evaluate
            )

        make[COMMON] = common
        if COMMON_MODELS[name].trains_features:
            make[COMMON_FROZEN] = lambda: common(trainable_features=False)
    if name == 'lightgcn':

        def pyg() -> Subject:
            other = PyGLightGCN(data, device)
            return Subject(lambda batch: other.step(*batch), _repeat(other.epoch, epochs), None)

        make[PyGLightGCN.name] = pyg
    if name == 'vbpr':
        why = CornacVBPR.missing(device)
        if why is None:
            make[CornacVBPR.name] = lambda: Subject(
                None, _repeat(CornacVBPR(data).epoch, epochs), None
            )
        else:
            missing[CornacVBPR.name] = why
    return make, missing


def make_batches(data: HeteroData, count: int = 16, seed: int = 0) -> list[Batch]:
    r"""Draws batches of triplets of random training edges, the same for everyone."""
    edge_index = data['user', 'rates', 'item'].edge_index
    device = edge_index.device
    num_items = int(data['item'].num_nodes)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(edge_index.size(1), generator=generator).to(device)
    user, pos = edge_index[:, order[: count * BATCH_SIZE]]
    torch.manual_seed(seed)
    codes = encode_edges(edge_index, num_items)
    neg = sample_negatives(user, codes, num_items, candidates=edge_index[1].unique())
    parts = (x.split(BATCH_SIZE) for x in (user, pos, neg))
    batches = list(zip(*parts))
    return batches if len(batches) == 1 else [b for b in batches if b[0].numel() == BATCH_SIZE]


def _repeat(fn: Callable[[], Any], count: int) -> Callable[[], Any]:
    def run() -> None:
        for _ in range(count):
            fn()

    return run
