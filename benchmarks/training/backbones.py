r"""The models that are timed: this package's, the common implementation of each, and models from
elsewhere, all of them behind the same three calls (a step, an epoch, an evaluation).
"""

import copy
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from benchmarks.training.common import COMMON
from benchmarks.training.common.loop import CommonLoop
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn.models import MODELS, Recommender, Triplets
from mrdib_pyg.ops import encode_edges, sample_negatives
from mrdib_pyg.training import LossWeights, fit
from mrdib_pyg.training.step import make_adam, make_train_step

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

OURS = 'mrdib_pyg'
OURS_MRDIB = 'mrdib_pyg with MRdIB'
OURS_TRAINED = 'mrdib_pyg, features trained'
OURS_COMPILED = 'mrdib_pyg, compiled'
OURS_MRDIB_COMPILED = 'mrdib_pyg with MRdIB, compiled'
COMMON_NAME = 'common implementation'
COMMON_FROZEN = 'common implementation, features frozen'
ROLES = {
    **dict.fromkeys((OURS, OURS_MRDIB, OURS_TRAINED, OURS_COMPILED, OURS_MRDIB_COMPILED), 'ours'),
    COMMON_NAME: 'baseline',
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
        name (str): A name in :obj:`~mrdib_pyg.nn.models.MODELS` or :obj:`COMMON`.
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
    if name in COMMON:

        def common(**settings: Any) -> Subject:
            seed_everything(0)
            model = COMMON[name](data, **{**SETTINGS.get(name, {}), **settings})
            loop = CommonLoop(model.to(device), data, BATCH_SIZE)
            model.train()
            model.on_epoch_start()
            return Subject(
                lambda batch: loop.step(*batch), _repeat(loop.epoch, epochs), loop.evaluate
            )

        make[COMMON_NAME] = common
        if COMMON[name].trains_features:
            make[COMMON_FROZEN] = lambda: common(trainable_features=False)
    if name == 'lightgcn':
        from benchmarks.training.pyg_lightgcn import PyGLightGCN

        def pyg() -> Subject:
            other = PyGLightGCN(data, device)
            return Subject(lambda batch: other.step(*batch), _repeat(other.epoch, epochs), None)

        make[PyGLightGCN.name] = pyg
    if name == 'vbpr':
        from benchmarks.training.cornac_vbpr import CornacVBPR

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
