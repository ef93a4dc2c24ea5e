import torch
from torch import Tensor, nn

from mrdib_pyg.nn.models.modality_features import ModalityFeatures
from mrdib_pyg.ops import linear_rows


class FeatureMaps(nn.Module):
    r"""One linear map of the item features per modality, :math:`\mathbf{F}_m
    \mathbf{W}_m^{\top} + \mathbf{b}_m`.

    Args:
        features (ModalityFeatures): The features.
        channels (int): The width of the outputs.
        bias (bool, optional): If set to :obj:`False`, the maps have no bias.
            (default: :obj:`True`)
        trainable (bool, optional): If set to :obj:`True`, the features are parameters that start
            as what the data says, as in public code of FREEDOM and MGCN: many times the other
            parameters of the model. (default: :obj:`False`)
    """

    def __init__(
        self,
        features: ModalityFeatures,
        channels: int,
        bias: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.trainable = trainable
        self.lins = nn.ModuleDict()
        self.tables = nn.ParameterDict()
        for name in features.names:
            x = features(name)
            self.lins[_key(name)] = nn.Linear(x.size(1), channels, bias=bias)
            if trainable:
                self.tables[_key(name)] = nn.Parameter(torch.empty_like(x))
        self.reset_parameters(features)

    def reset_parameters(self, features: ModalityFeatures) -> None:
        r"""Resets all learnable parameters of the module."""
        for lin in self.lins.values():
            lin.reset_parameters()  # type: ignore[operator]
        for name in features.names if self.trainable else []:
            with torch.no_grad():
                self.tables[_key(name)].copy_(features(name))

    def lin(self, name: str) -> nn.Linear:
        r"""Returns the map of a modality."""
        lin = self.lins[_key(name)]
        assert isinstance(lin, nn.Linear)
        return lin

    def table(self, name: str, features: ModalityFeatures) -> Tensor:
        r"""Returns the features of a modality that are mapped."""
        return self.tables[_key(name)] if self.trainable else features(name)

    def forward(self, name: str, features: ModalityFeatures, rows: Tensor | None = None) -> Tensor:
        r"""Maps the features of a modality, or the rows asked for."""
        lin, x = self.lin(name), self.table(name, features)
        if rows is None:
            return lin(x)
        out = linear_rows(x, rows, lin.weight)
        return out if lin.bias is None else out + lin.bias


def _key(name: str) -> str:
    return f'modality_{name}'  # ModuleDict refuses names such as 'type' that nn.Module has
