import copy

import pytest
import torch

from mrdib_pyg.datasets import Planted
from mrdib_pyg.experiment import Experiment

DESCRIPTION = {
    'datasets': [{'path': 'planted', 'name': 'toy', 'num_users': 40, 'num_items': 50}],
    'trials': [6, 2],
    'selection_seeds': [101, 102],
    'seeds': [1, 2, 3],
    'fit': {'epochs': 2, 'lr': [1e-3, 1e-2]},
    'models': {'vbpr': {'channels': 4, 'reg_weight': [1e-3, 1e-2, 1e-1]}},
    'variants': {
        'plain': {},
        'l2': {'weights': {'bottleneck': [1e-3, 1e-2]}},
        'noise': {'noise_scale': [0.1, 0.5]},
        'mrdib': {
            'redundancy': 'gaussian',
            'weights': {'bottleneck': [1e-3, 5e-3], 'redundant': 0, 'unique': [1e-2, 0.5]},
        },
    },
}
FACTOR = {None: 1.0, 'l2': 1.2, 'noise': 0.9, 'mrdib': 1.5}
METRICS = [f'{name}@{k}' for name in ('recall', 'precision', 'map', 'ndcg') for k in (5, 10, 20)]


@pytest.fixture
def data():
    return Planted(num_users=40, num_items=50, num_interactions=10)[0]


@pytest.fixture
def description():
    return copy.deepcopy(DESCRIPTION)


@pytest.fixture
def experiment(description):
    return Experiment(description, 'toy')


def variant_of(job):
    return None if job['mrdib'] is None else job['mrdib'].get('control', 'mrdib')


class FakeRunner:
    """Results that are known: the validation metric falls with `reg_weight` and rises with `lr`;
    the test metrics of a user do the contrary, so that whoever chooses by them chooses wrongly."""

    def __init__(self, num_users=50):
        self.num_users = num_users
        self.jobs = []

    def __call__(self, job, path, device):
        self.jobs.append(job)
        lr, reg = job['fit']['lr'], job['settings']['reg_weight']
        good = lr / reg * 1e-3 + 1e-5 * job['seed']
        out = {
            'val': dict.fromkeys(METRICS, good), 'data_hash': 'abc', 'best_epoch': 1,
            'num_epochs': 2, 'epoch_seconds': 0.5, 'seconds': 1.0, 'num_parameters': 7,
            'terms': {'task': 1.0}, 'versions': {'torch': '1'}, 'machine': {'cores': 1},
        }  # fmt: skip
        if job['test']:
            base = torch.linspace(0.0, 0.2, self.num_users) + 0.001 * job['seed']
            values = base * FACTOR[variant_of(job)] * (1.0 if good > 1e-3 else 10.0)
            out['per_user'] = {'user': torch.arange(self.num_users) * 2}
            out['per_user'] |= {name: values for name in METRICS}
            out['test'] = {name: float(values.double().mean()) for name in METRICS}
        return out


@pytest.fixture
def runner():
    return FakeRunner()
