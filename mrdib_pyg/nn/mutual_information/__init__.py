from mrdib_pyg.nn.mutual_information.base import MutualInformation
from mrdib_pyg.nn.mutual_information.club import CLUB
from mrdib_pyg.nn.mutual_information.critics import MINE, NWJ, InfoNCE
from mrdib_pyg.nn.mutual_information.gaussian import Gaussian

__all__ = ['CLUB', 'MINE', 'NWJ', 'Gaussian', 'InfoNCE', 'MutualInformation']
