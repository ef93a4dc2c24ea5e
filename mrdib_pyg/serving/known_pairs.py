import torch
from torch import Tensor
from torch_geometric.data import HeteroData


def known_pairs(data: HeteroData) -> Tensor:
    r"""Returns all interactions that data hold, whatever split they are in: what a recommendation
    in use should leave out, as the :obj:`exclude` of :func:`recommend`.

    Args:
        data (HeteroData): Users, items, training edges ``('user', 'rates', 'item').edge_index`` and
            held-out edges ``('user', split, 'item').edge_label_index``, of any splits or none.

    Shapes:
        - **output:** pairs of a user and an item :math:`(2, n)`, sorted by user and item, each once

    Raises:
        ValueError: If there are no training edges.
    """
    train = ('user', 'rates', 'item')
    if train not in data.edge_types or 'edge_index' not in data[train]:
        raise ValueError(f'data{list(train)}.edge_index is missing: it holds the training edges')
    held_out = [
        data[edge_type].edge_label_index
        for edge_type in data.edge_types
        if edge_type[::2] == ('user', 'item') and 'edge_label_index' in data[edge_type]
    ]
    edge_index: Tensor = data[train].edge_index.long()  # products of ids may exceed 32 bits
    pairs = torch.cat([edge_index, *(x.to(edge_index.device) for x in held_out)], dim=1)
    num_items = int(pairs[1].max()) + 1 if pairs.numel() > 0 else 1
    code = (pairs[0] * num_items + pairs[1]).unique()  # far quicker than of columns
    return torch.stack([code.div(num_items, rounding_mode='floor'), code % num_items])
