from mrdib_pyg.nn.mutual_information.base import MutualInformation
from mrdib_pyg.nn.mutual_information.club import CLUB
from mrdib_pyg.nn.mutual_information.gaussian import Gaussian
from mrdib_pyg.nn.mutual_information.info_nce import InfoNCE
from mrdib_pyg.nn.mutual_information.mine import MINE
from mrdib_pyg.nn.mutual_information.nwj import NWJ

__all__ = ['CLUB', 'MINE', 'NWJ', 'Gaussian', 'InfoNCE', 'MutualInformation']
