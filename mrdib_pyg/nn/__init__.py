from mrdib_pyg.nn._attach import attach, capture, detach
from mrdib_pyg.nn.bottleneck import Posterior, VariationalBottleneck
from mrdib_pyg.nn.controls import CodeNoise, CodePenalty
from mrdib_pyg.nn.modality_conv import ModalityConv
from mrdib_pyg.nn.mrdib import MRdIB, PIDTerms

__all__ = [
    'CodeNoise',
    'CodePenalty',
    'MRdIB',
    'ModalityConv',
    'PIDTerms',
    'Posterior',
    'VariationalBottleneck',
    'attach',
    'capture',
    'detach',
]
