r"""Plainly written models and loops that do what common implementations of multimodal recommenders
do: the baseline of :mod:`benchmarks.training`.

They compute the same losses as this package, which is tested, in the usual way: products with a
sparse COO matrix through autograd, features of *all* items projected in every step, trained along
with the model where that is the custom, Adam by its defaults, embeddings propagated anew for every
batch of users that is ranked, metrics and negatives in Python loops, and both validation and test
edges evaluated after every epoch.
"""

from benchmarks.training.common.base import CommonModel
from benchmarks.training.common.bm3 import BM3
from benchmarks.training.common.freedom import FREEDOM
from benchmarks.training.common.lightgcn import LightGCN
from benchmarks.training.common.mgcn import MGCN
from benchmarks.training.common.mmgcn import MMGCN
from benchmarks.training.common.vbpr import VBPR

#: The models by the names of this package.
COMMON: dict[str, type[CommonModel]] = {
    'lightgcn': LightGCN,
    'vbpr': VBPR,
    'mmgcn': MMGCN,
    'freedom': FREEDOM,
    'bm3': BM3,
    'mgcn': MGCN,
}

__all__ = ['COMMON', 'CommonModel', 'LightGCN', 'VBPR', 'MMGCN', 'FREEDOM', 'BM3', 'MGCN']
