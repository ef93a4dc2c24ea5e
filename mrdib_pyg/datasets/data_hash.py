import hashlib

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from mrdib_pyg.interactions import SPLITS


def data_hash(data: HeteroData) -> str:
    r"""Computes the SHA-256 of what a model learns from: the numbers of users and items, the
    interactions of all splits, and the features and masks of all modalities.

    Equal in every process and on every device, and whatever the order of the interactions. Graphs
    that a transform added do not count.

    Args:
        data (HeteroData): The data of any dataset of this package.

    Returns:
        str: 64 hexadecimal digits.

    Example:
        >>> data_hash(TikTok('data/tiktok')[0])[:8]
        '36560467'
    """
    num_users, num_items = int(data['user'].num_nodes), int(data['item'].num_nodes)
    digest = hashlib.sha256(f'users {num_users} items {num_items}'.encode())
    for relation, key in SPLITS.values():
        if ('user', relation, 'item') in data.edge_types:
            index = data['user', relation, 'item'][key].to(torch.int64)
            code = index[0] * num_items + index[1]
            _update(digest, relation, code.sort().values)
    for key, value in sorted(data['item'].items()):
        if key.startswith('x_'):
            _update(digest, key, value.to(torch.float32))
        elif key.startswith('has_'):
            _update(digest, key, value.to(torch.bool))
    return digest.hexdigest()


def _update(digest, name: str, value: Tensor) -> None:
    # The shape goes in as well: else two arrays could trade rows at their border.
    digest.update(f'\n{name} {list(value.shape)}\n'.encode())
    digest.update(value.detach().cpu().contiguous().numpy().data)
