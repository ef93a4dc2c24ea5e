"""A recommender of your own, without and with MRdIB: two functions, between which the layer sits.

Items have an ID embedding and, for each modality, projected features behind a gate; users have an
ID embedding. The data are generated. From this folder, the same class takes part in everything
that the command line does:

mrdib train --dataset planted --model own_model:GatedMF --mrdib --out runs/gated
mrdib evaluate runs/gated --model own_model:GatedMF
mrdib experiment experiments/own-model.toml
"""

import argparse
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch_geometric.data import HeteroData

from mrdib_pyg.datasets import Planted
from mrdib_pyg.nn.models import Embeddings, Recommender
from mrdib_pyg.nn.models.batch import Rows
from mrdib_pyg.training import train_model


class GatedMF(Recommender):
    """Matrix factorization, to whose items each modality adds what its gate lets through."""

    user_codes = False  # users have no representation per modality

    def __init__(
        self, data: HeteroData, channels: int = 64, bias: bool = True, mrdib: Any = None
    ) -> None:
        super().__init__(data, channels, mrdib, feature_scaling='standard')
        self.bias = bias  # each argument is stored under its name
        self.user_emb = nn.Embedding(self.num_users, channels)
        self.item_emb = nn.Embedding(self.num_items, channels)
        widths = [self.features(name).size(1) for name in self.modalities]
        self.lins = nn.ModuleList(nn.Linear(width, channels) for width in widths)
        self.gates = nn.ModuleList(nn.Linear(channels, channels, bias) for _ in widths)
        for table in (self.user_emb, self.item_emb):
            nn.init.xavier_uniform_(table.weight)

    # `rows` are the users and items that a batch reads; None means all of them.

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Any]:
        item = None if rows is None else rows.item
        lins = zip(self.modalities, self.lins)
        return {name: (None, self.map_features(name, lin, item)) for name, lin in lins}

    def fuse(self, codes: Mapping[str, Any], rows: Rows | None = None) -> Embeddings:
        user, item = self.user_emb.weight, self.item_emb.weight
        if rows is not None:
            user, item = user[rows.user], item[rows.item]
        gates = zip(codes.items(), self.gates)
        gated = {name: (None, gate(item).sigmoid() * code) for (name, (_, code)), gate in gates}
        return Embeddings(user, item + self.sum_items(gated, rows))  # missing ones add nothing


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--num_users', type=int, default=1500)
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    args = parser.parse_args()
    data = Planted(num_users=args.num_users, noise=1.0)[0]
    weights = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
    for title, mrdib in (('plain', None), ('MRdIB', {})):
        results = train_model(
            data, GatedMF, mrdib=mrdib, weights=weights if mrdib is not None else None,
            epochs=args.epochs, lr=5e-3, progress=not args.quiet,
        )  # fmt: skip
        print(f'{title}: best epoch {results["best_epoch"]}, ', end='')
        print(f'ndcg@10 {results["test"]["ndcg@10"]:.4f} of {results["model"]}')
