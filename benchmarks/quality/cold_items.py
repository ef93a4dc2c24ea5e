r"""Ranks items that nobody has interacted with: heads by evidence against what else there is.

A fifth of the items leaves the training with all edges and features
(:class:`~mrdib_pyg.transforms.ColdItemSplit`): half of them for validation, half for the test. Each
half is ranked among itself, so that nothing that was chosen on one has seen the other. ``all`` are
all edges of both halves among all these items. A seed is a split and an initialization.

    python -m benchmarks.quality.cold_items data/movielens-posters --seeds 5,6,7 --out cold.json
    python -m benchmarks.quality.cold_items --table cold.json [MORE.json]

The file is a list of rows with ``method``, ``seed``, ``recall@20`` and ``ndcg@20`` (of the test),
the same of ``val`` and ``all``, and what the numbers came from. It grows by a run at a time; the
same command continues a run that was stopped. Methods:

* ``k-NN``: the inner product with the mean features of the user's items, of one modality or of all.
* ``ridge``: ridge regression of the interactions, its weight chosen on validation.
* ``plain``, ``L2``, ``noise``: ``multimodal_lightgcn``, and the controls of MRdIB, each with the
  epoch of its best validation edges of known items.
* ``only <modality>``: the same model with one modality and no item IDs; ``ID dropout``: with the ID
  part of half of the items left out in each step (as `DropoutNet
  <https://papers.nips.cc/paper/2017/hash/dbd22ba3bd0df8f385bdac3e9f8be207-Abstract.html>`_);
  ``CLCRec``: `contrastive learning for cold start <https://arxiv.org/abs/2107.05315>`_, written
  from its paper. All three with the epoch of the best validation on new items.
* ``evidence``: :class:`~mrdib_pyg.evidence.EvidenceHead`, of the plain model's embeddings, of the
  interactions, and of both; nothing of it is chosen on anything.
"""

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric import seed_everything
from torch_geometric.data import HeteroData

from benchmarks.tables import make_table
from mrdib_pyg.datasets import data_hash, load_dataset
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.evidence import EvidenceHead
from mrdib_pyg.evidence.heads import interaction_targets
from mrdib_pyg.files import write_atomic
from mrdib_pyg.nn.models import Embeddings, MultimodalLightGCN, Triplets
from mrdib_pyg.ops import sample_negatives
from mrdib_pyg.ops.negative_sampling import encode_edges
from mrdib_pyg.training import fit
from mrdib_pyg.training._run import provenance
from mrdib_pyg.transforms import ColdItemSplit

Row = dict[str, Any]
#: Users and the items of a split, whose inner product is the score.
Ranking = Callable[[str], Embeddings]
RATIO, K = 0.2, 20
RUNS = ('content', 'plain', 'L2', 'noise', 'only', 'ID dropout', 'CLCRec')
FIT = {'epochs': 100, 'lr': 3e-3, 'patience': 5}
L2_WEIGHT = 1e-3
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
SPLITS = ('val', 'test', 'all')


def split_items(data: HeteroData, seed: int) -> HeteroData:
    """Holds items out, with a node type for those of each split of its own."""
    out = ColdItemSplit(RATIO, seed=seed)(data)
    cold = out['cold_item']
    edges = {s: out['user', s, 'cold_item'].edge_label_index for s in ('val', 'test')}
    edges['all'] = torch.cat(list(edges.values()), dim=1)
    for split, index in edges.items():
        items, local = index[1].unique(return_inverse=True)
        if split == 'all':  # those without an edge too, if there were any
            items, local = torch.arange(int(cold.num_nodes)), index[1]
        store = out[f'{split}_item']
        for key, value in cold.items():
            if isinstance(value, Tensor) and cold.is_node_attr(key):
                store[key] = value[items]
        store.num_nodes = len(items)
        label = torch.stack([index[0], local])
        out['user', split, f'{split}_item'].edge_label_index = label
    return out


def features(data: HeteroData, node_type: str, names: list[str]) -> dict[str, Tensor]:
    """The raw features of some items."""
    return {name: data[node_type][f'x_{name}'] for name in names}


def directions(data: HeteroData, names: list[str], node_type: str) -> dict[str, Tensor]:
    """Features standardized by those of the training's items, scaled to unit length."""
    out = {}
    for name in names:
        known = data['item'][f'x_{name}'].double()
        std = known.std(dim=0)
        x = data[node_type][f'x_{name}'].double() - known.mean(dim=0)
        out[name] = F.normalize(x * torch.where(std > 0, 1 / std, 0.0), dim=1)
    return out


def subsets(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each modality alone, and all of them."""
    yield from ((name, [name]) for name in names)
    if len(names) > 1:
        yield 'all', names


def measure(data: HeteroData, ranking: Ranking) -> Row:
    """Recall and NDCG of each split."""
    out: Row = {}
    for split in SPLITS:
        values = evaluate(ranking(split), data, split, k=K, node_type=f'{split}_item')
        found = {f'{m}@{K}': values[f'{m}@{K}'] for m in ('recall', 'ndcg')}
        out.update(found if split == 'test' else {split: found})
    return out


def of_content(data: HeteroData, names: list[str], seed: int) -> Iterator[tuple[str, Row]]:
    """What needs no recommender."""
    num_users, num_items = int(data['user'].num_nodes), int(data['item'].num_nodes)
    edge_index = data['user', 'rates', 'item'].edge_index
    targets = interaction_targets(edge_index, num_users, num_items)
    tables = {t: directions(data, names, t) for t in ('item', *(f'{s}_item' for s in SPLITS))}
    x = {t: lambda ms, of=of: torch.cat([of[m] for m in ms], dim=1) for t, of in tables.items()}
    for label, subset in subsets(names):
        user = torch.from_numpy(targets.T @ x['item'](subset).numpy())
        ranking = lambda split: Embeddings(user, x[f'{split}_item'](subset))  # noqa: B023, E731
        yield f'k-NN: {label}', measure(data, ranking)

        value, vector = torch.linalg.eigh(x['item'](subset).t() @ x['item'](subset))
        best: tuple[float, float, Tensor] | None = None
        for weight in RIDGES:
            codes = user @ vector / (value.clamp(min=0) + weight) @ vector.t()
            emb = Embeddings(codes, x['val_item'](subset))
            val = evaluate(emb, data, 'val', k=K, node_type='val_item')[f'recall@{K}']
            if best is None or val > best[0]:
                best = (val, weight, codes)
        assert best is not None
        ranking = lambda split: Embeddings(best[2], x[f'{split}_item'](subset))  # noqa: B023, E731
        yield f'ridge: {label}', {**measure(data, ranking), 'chosen': {'weight': best[1]}}

        yield from of_head(None, data, 'interactions', label, subset)


def of_head(
    model: Any, data: HeteroData, kind: str, label: str, subset: list[str]
) -> Iterator[tuple[str, Row]]:
    """A head by evidence."""
    start = time.perf_counter()
    head = EvidenceHead(model, data, kind, subset)
    seconds = time.perf_counter() - start

    def ranking(split: str) -> Embeddings:
        return head(features(data, f'{split}_item', subset)).embed()

    parts = {'embeddings': head.embeddings, 'interactions': head.interactions}
    amplitudes = {name: part.amplitudes for name, part in parts.items() if part is not None}
    row = {**measure(data, ranking), 'amplitudes': amplitudes, 'fit_seconds': seconds}
    yield f'evidence, {kind}: {label}', row


def of_model(data: HeteroData, names: list[str], seed: int, run: str) -> Iterator[tuple[str, Row]]:
    """The multimodal model with its epoch chosen on known items; of the plain one, the heads."""
    layer: Any = {'plain': None, 'L2': {'control': 'l2'}, 'noise': {'control': 'noise'}}[run]
    weights = {'bottleneck': L2_WEIGHT} if run == 'L2' else None
    seed_everything(seed)
    model = MultimodalLightGCN(data, mrdib=layer)
    fitted = fit(model, data, seed=seed, weights=weights, progress=False, **FIT)

    def ranking(split: str) -> Embeddings:
        new = model.encode_items(features(data, f'{split}_item', names))
        return Embeddings(model.embed().user, new)

    yield run, {**measure(data, ranking), 'chosen': {'epoch': fitted.best_epoch}}
    if run == 'plain':
        for label, subset in subsets(names):
            for kind in ('embeddings', 'both'):
                yield from of_head(model, data, kind, label, subset)


class IDDropout(MultimodalLightGCN):
    """In each step the ID part of half of the items is left out, as if they were new."""

    def fuse(self, codes: Any, rows: Any = None) -> Embeddings:
        """As in the base class, less some of the IDs."""
        out = super().fuse(codes, rows)
        if not self.training:
            return out
        _, item = out.views['id']
        dropped = (torch.rand(item.size(0), 1) < 0.5).to(item.dtype)
        return Embeddings(out.user, out.item - dropped * item, out.views)


class CLCRec(nn.Module):
    """Users, items and an encoder of their content, by two contrastive losses: of an item's content
    with its embedding, and of a user with the items, half of which are represented by content.
    """

    def __init__(self, data: HeteroData, names: list[str], channels: int = 64) -> None:
        super().__init__()
        self.tables = {
            t: torch.cat(list(directions(data, names, t).values()), dim=1).float()
            for t in ('item', *(f'{s}_item' for s in SPLITS))
        }
        width = self.tables['item'].size(1)
        self.user = nn.Embedding(int(data['user'].num_nodes), channels)
        self.item = nn.Embedding(int(data['item'].num_nodes), channels)
        self.encoder = nn.Sequential(
            nn.Linear(width, 256), nn.LeakyReLU(), nn.Linear(256, channels)
        )
        for table in (self.user, self.item):
            nn.init.xavier_uniform_(table.weight)

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        """Both losses; the negatives of the batch serve all its users."""
        user, positive, negative = (x.view(-1) for x in batch)
        negative = negative[:256]
        items = torch.cat([positive, negative])
        z, content = self.item(items), self.encoder(self.tables['item'][items])
        n = len(positive)
        cosine = F.normalize(content[:n], dim=1) @ F.normalize(z, dim=1).t() / 0.2
        mixed = torch.where(torch.rand(len(items), 1) < 0.5, content, z)
        score = self.user(user) @ mixed.t()
        # Of the other positives of the batch none is a negative.
        outs = []
        for value in (cosine, score):
            own = value[:, :n].diagonal().unsqueeze(1)
            hit = negative == positive.unsqueeze(1)
            others = value[:, n:].masked_fill(hit, -torch.inf)
            outs.append(torch.cat([own, others], dim=1).logsumexp(dim=1).sub(own[:, 0]).mean())
        norm = (self.user(user).square().sum() + z.square().sum()) / n
        return {'contrastive': 0.5 * outs[0], 'ranking': 0.5 * outs[1], 'l2': 1e-3 * norm}

    @torch.no_grad()
    def ranking(self, split: str) -> Embeddings:
        """Users and new items by their content."""
        return Embeddings(self.user.weight, self.encoder(self.tables[f'{split}_item']))


def train_for_new_items(
    model: Any, data: HeteroData, ranking: Ranking, seed: int, epochs: int, lr: float, patience: int
) -> Row:
    """Trains by Adam and keeps the epoch that ranks the new items of the validation best."""
    edge_index = data['user', 'rates', 'item'].edge_index
    num_items = int(data['item'].num_nodes)
    codes = encode_edges(edge_index, num_items)
    candidates = edge_index[1].unique()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    best, best_epoch, state = -1.0, 0, None
    for epoch in range(1, epochs + 1):
        model.train()
        order = torch.randperm(edge_index.size(1), generator=generator)
        user, positive = edge_index[:, order]
        negative = sample_negatives(
            user, codes, num_items, candidates=candidates, generator=generator
        )
        keep = negative >= 0
        for batch in zip(*(x[keep].split(2048) for x in (user, positive, negative))):
            terms = model.loss(Triplets(*batch))
            weights = getattr(model, 'loss_weights', {})
            loss = torch.stack([weights.get(name, 1.0) * x for name, x in terms.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        value = evaluate(ranking('val'), data, 'val', k=K, node_type='val_item')[f'recall@{K}']
        if value > best:
            best, best_epoch, state = value, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch > patience:
            break
    assert state is not None
    model.load_state_dict(state)
    model.eval()
    return {**measure(data, ranking), 'chosen': {'epoch': best_epoch}}


def of_cold_model(
    data: HeteroData, names: list[str], seed: int, run: str
) -> Iterator[tuple[str, Row]]:
    """The models whose epoch is chosen on new items."""
    for name in names if run == 'only' else [run]:
        seed_everything(seed)
        if run == 'CLCRec':
            clcrec = CLCRec(data, names)
            yield run, train_for_new_items(clcrec, data, clcrec.ranking, seed, **FIT)
            continue
        used = [name] if run == 'only' else names
        part = copy.copy(data)
        for other in set(names) - set(used):
            del part['item'][f'x_{other}']
        model: Any = (
            MultimodalLightGCN(part, id_channel=False) if run == 'only' else IDDropout(part)
        )

        def ranking(split: str, model: Any = model, used: list[str] = used) -> Embeddings:
            new = model.encode_items(features(data, f'{split}_item', used))
            return Embeddings(model.embed().user, new)

        label = f'only {name}' if run == 'only' else run
        yield label, train_for_new_items(model, data, ranking, seed, **FIT)


def rows_of(data: HeteroData, run: str, seed: int) -> Iterator[tuple[str, Row]]:
    """The methods of a run."""
    names = sorted(key[2:] for key in data['item'].keys() if key.startswith('x_'))
    split = split_items(data, seed)
    if run == 'content':
        return of_content(split, names, seed)
    if run in ('plain', 'L2', 'noise'):
        return of_model(split, names, seed, run)
    return of_cold_model(split, names, seed, run)


def run(dataset: str, path: Path, seeds: list[int], runs: list[str]) -> list[Row]:
    """Runs what the file does not have yet, and writes it after each run."""
    data = load_dataset(dataset)
    head = {'dataset': Path(dataset).name, 'data_hash': data_hash(data)}
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    if any({key: row[key] for key in head} != head for row in rows):
        raise SystemExit(f"'{path}' was made with other data; name another file")
    done = {(row['run'], row['seed']) for row in rows}
    for seed in seeds:
        for name in runs:
            if (name, seed) in done:
                continue
            start = time.process_time()
            new = [
                {'method': method, 'seed': seed, **row, **head, 'run': name}
                for method, row in rows_of(data, name, seed)
            ]
            for row in new:
                row.update(run_cpu_seconds=round(time.process_time() - start, 2), **provenance())
            rows += new
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, (json.dumps(rows, indent=1) + '\n').encode())
            for row in new:
                print(f'{seed} {row["method"]}: {row[f"recall@{K}"]:.4f}', flush=True)
    return rows


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over seeds of each method, and how often the head of both by all
    modalities is above it in the same seed.
    """
    seeds_of: dict[str, dict[int, Row]] = {}
    for row in rows:
        seeds_of.setdefault(row['method'], {})[row['seed']] = row
    head = seeds_of.get('evidence, both: all', {})
    out = []
    for method, of in seeds_of.items():
        line = [method, str(len(of))]
        for value in (
            lambda r: r[f'recall@{K}'],
            lambda r: r[f'ndcg@{K}'],
            lambda r: r['all'][f'recall@{K}'],
        ):
            values = [value(row) for row in of.values()]
            spread = f' ± {statistics.stdev(values):.4f}' if len(values) > 1 else ''
            line.append(f'{statistics.mean(values):.4f}{spread}')
        shared = [seed for seed in of if seed in head]
        gain = [head[seed][f'recall@{K}'] - of[seed][f'recall@{K}'] for seed in shared]
        above = f'{statistics.mean(gain):+.4f}, {sum(x > 0 for x in gain)} of {len(gain)}'
        line.append('' if method == 'evidence, both: all' or not gain else above)
        out.append(line)
    metrics = [f'recall@{K}', f'ndcg@{K}', f'recall@{K}, all']
    return make_table(['', 'seeds', *metrics, 'evidence of both and all above it'], out)


def main() -> None:
    parser = argparse.ArgumentParser(description='Items unseen in training.')
    parser.add_argument('dataset', nargs='?', help='a name or a folder')
    parser.add_argument('--seeds', default='0,1,2', help='separated by commas')
    parser.add_argument('--out', type=Path, help='the file, continued if it exists')
    parser.add_argument('--runs', default=','.join(RUNS), help='some of: ' + ', '.join(RUNS))
    parser.add_argument('--table', type=Path, nargs='+', help='only show what files have')
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        print('\n\n'.join(table(json.loads(path.read_text())) for path in args.table))
        return
    runs = args.runs.split(',')
    if args.dataset is None or args.out is None or not set(runs) <= set(RUNS):
        parser.error(f'name a data set, --out and --runs of {", ".join(RUNS)}')
    warnings.filterwarnings('ignore', '.*have no training interaction')
    rows = run(args.dataset, args.out, [int(seed) for seed in args.seeds.split(',')], runs)
    print(table(rows))


if __name__ == '__main__':
    main()
