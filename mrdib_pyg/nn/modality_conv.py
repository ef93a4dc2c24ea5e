from typing import Any, Union

from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import Linear
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import is_sparse

from mrdib_pyg.ops import NormalizedAdjacency, propagate_mean

Adj = Union[Tensor, SparseTensor, NormalizedAdjacency]  # noqa: UP007 (for mypy)


class ModalityConv(nn.Module):
    r"""The user-item graph convolution of one modality. It maps item features to a common width and
    propagates them with the users' preferences for the modality, as in `"LightGCN: Simplifying and
    Powering Graph Convolution Network for Recommendation" <https://arxiv.org/abs/2002.02126>`_,

    .. math::
        (\mathbf{X}^{\prime}_u, \mathbf{X}^{\prime}_i) = \frac{1}{L+1} \sum_{l=0}^{L}
        \hat{\mathbf{A}}^l \, [\mathbf{X}_u; \, \mathbf{X}_i \mathbf{W} + \mathbf{b}]

    where :math:`\hat{\mathbf{A}}` is the symmetric-normalized user-item adjacency.

    Args:
        in_channels (int): Size of each item feature, or :obj:`-1` to derive it from the first
            input.
        out_channels (int): Size of each output row and of each user preference.
        num_layers (int, optional): The number of propagation layers :math:`L`.
            (default: :obj:`2`)
        normalize (bool, optional): If set to :obj:`False`, the adjacency is used as given, with
            its edge weights. (default: :obj:`True`)
        bias (bool, optional): If set to :obj:`False`, the feature map has no bias.
            (default: :obj:`True`)

    Shapes:
        - **input:** ``(x_user [U, out_channels] or None, x_item [I, in_channels])`` with edges
          from users to items; or node features ``[N, in_channels]`` in one id space, which are all
          mapped, with an undirected graph
        - **output:** ``(x_user [U, out_channels], x_item [I, out_channels])``; or
          ``[N, out_channels]``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int = 2,
        normalize: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 0:
            raise ValueError(f"'num_layers' must not be negative (got {num_layers})")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.normalize = normalize
        self.lin = Linear(
            in_channels, out_channels, bias=bias, weight_initializer="glorot",
            bias_initializer="zeros" if bias else None,
        )  # fmt: skip
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        self.lin.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor | None, Tensor],
        edge_index: Adj,
        edge_weight: Tensor | None = None,
    ) -> Any:
        r"""Runs the forward pass.

        Args:
            x (torch.Tensor or Tuple[torch.Tensor, torch.Tensor]): The node features. Users
                without a preference (:obj:`None`) start at zero; their number is then that of the
                adjacency or, for a plain edge index, the largest id plus one.
            edge_index (torch.Tensor or SparseTensor or NormalizedAdjacency): The edges from users
                to items as an edge index, an :class:`~torch_geometric.EdgeIndex` or a sparse matrix
                of users times items (torch COO, CSR, CSC or :class:`SparseTensor`); of a transposed
                ``adj_t`` pass ``adj_t.t()``. A prepared
                :class:`~mrdib_pyg.ops.NormalizedAdjacency` saves the normalization in each call.
            edge_weight (torch.Tensor, optional): One weight per edge of an edge index.
                (default: :obj:`None`)

        Raises:
            ValueError: If widths or sizes do not agree.
        """
        if isinstance(x, Tensor):
            adj = self._prepare(edge_index, edge_weight, x.size(0))
            return propagate_mean(self.lin(x), adj, self.num_layers)

        x_user, x_item = x[0], self.lin(x[1])
        if x_user is None:
            num_users = _size(edge_index)[0]
            if num_users is None:
                edges: Any = edge_index
                num_users = int(edges[0].max()) + 1 if edges.numel() > 0 else 0
            x_user = x_item.new_zeros(num_users, self.out_channels)
        if x_user.size(-1) != self.out_channels:
            raise ValueError(
                f"user preferences must be {self.out_channels} wide, as 'out_channels' (got "
                f'{x_user.size(-1)})'
            )
        adj = self._prepare(edge_index, edge_weight, (x_user.size(0), x_item.size(0)))
        return propagate_mean((x_user, x_item), adj, self.num_layers)

    def _prepare(
        self, edge_index: Adj, edge_weight: Tensor | None, num_nodes: int | tuple[int, int]
    ) -> NormalizedAdjacency:
        expected = (num_nodes, num_nodes) if isinstance(num_nodes, int) else num_nodes
        size = _size(edge_index)
        if any(known not in (None, num) for known, num in zip(size, expected)):
            raise ValueError(
                f"'edge_index' must be a matrix of the {expected[0]} users times the {expected[1]} "
                f"items of 'x' (got the size {size}); of a transposed 'adj_t' pass adj_t.t()"
            )
        if isinstance(edge_index, NormalizedAdjacency):
            if edge_weight is not None:
                raise ValueError("'edge_weight' is part of a prepared adjacency; leave it out here")
            return edge_index
        # The numbers of nodes are named because a bipartite graph may well be square.
        return NormalizedAdjacency(
            edge_index,
            edge_weight,
            num_nodes=num_nodes,
            normalization='sym' if self.normalize else None,
        )

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}({self.in_channels}, {self.out_channels}, '
            f'num_layers={self.num_layers})'
        )


def _size(adj: Adj) -> tuple[int | None, int | None]:
    # The numbers of users and items, where the adjacency knows them.
    if isinstance(adj, NormalizedAdjacency):
        return adj._size
    if is_sparse(adj):
        return adj.size(0), adj.size(1)
    return adj.sparse_size() if isinstance(adj, EdgeIndex) else (None, None)
