import json
import shutil
from pathlib import Path

import pytest

from mrdib_pyg.datasets import Planted, write_folder
from mrdib_pyg.training import train_model


class Runs:
    """Two runs of each of two settings, and their data. The second of each is the first with other
    numbers: it takes no training."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset = root / 'small'
        self.plain, self.plain_1 = root / 'plain-0', root / 'plain-1'
        self.mrdib, self.mrdib_1 = root / 'mrdib-0', root / 'mrdib-1'

    @property
    def all(self) -> list[Path]:
        return [self.plain, self.plain_1, self.mrdib, self.mrdib_1]

    def copy(self, folder: Path, name: str = 'mrdib-0') -> Path:
        """A copy of a run, for a test that changes it."""
        return Path(shutil.copytree(self.root / name, folder / name))


@pytest.fixture(scope='session')
def runs(tmp_path_factory) -> Runs:
    out = Runs(tmp_path_factory.mktemp('report'))
    data = Planted(num_users=40, num_items=50, num_interactions=10)[0]
    write_folder(data, out.dataset)
    weights = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
    for folder, mrdib, fit in ((out.plain, None, {}), (out.mrdib, {}, {'weights': weights})):
        train_model(
            data, 'multimodal_lightgcn', settings={'channels': 8}, mrdib=mrdib, seed=0, out=folder,
            dataset=str(out.dataset), epochs=3, batch_size=64, progress=False, **fit,
        )  # fmt: skip
    for folder, other in ((out.plain, out.plain_1), (out.mrdib, out.mrdib_1)):
        shutil.copytree(folder, other)
        for name in ('config.json', 'results.json'):
            values = json.loads((other / name).read_text())
            values['seed'] = 1
            if 'test' in values:
                values['test'] = {key: value + 0.01 for key, value in values['test'].items()}
            (other / name).write_text(json.dumps(values))
    (out.mrdib / 'pid.json').write_text(json.dumps(pid()))
    return out


def pid() -> dict:
    """What ``mrdib measure`` writes, with numbers of our own."""

    def estimate(value: float) -> dict:
        return {'value': value, 'low': value - 0.01, 'high': value + 0.01}

    atoms = {
        'redundant': estimate(0.05),
        'unique': {'image': estimate(0.02), 'text': estimate(0.0)},
        'synergistic': estimate(-0.005),
        'synergistic_scores': estimate(0.01),
        'total': estimate(0.065),
    }
    part = {
        'num_edges': 80, 'num_users': 40, 'num_bins': 4, 'bias': 0.02,
        'informations': {
            name: estimate(0.07 + 0.01 * i)
            for i, name in enumerate(('image', 'text', 'content', 'id', 'all'))
        },
        'content_given_id': estimate(0.03), 'id_given_content': estimate(0.04),
        'pairs': [{'modalities': ['image', 'text'], 'bias': 0.1, 'broja': atoms, 'mmi': atoms}],
    }  # fmt: skip
    return {
        'format': 'mrdib_pyg pid 1', 'unit': 'nats', 'model': 'MultimodalLightGCN',
        'split': 'test', 'modalities': ['image', 'text'], 'negatives': ['uniform'],
        'num_bootstrap': 200, 'confidence': 0.95, 'seed': 0, 'overall': {'uniform': part},
        'groups': {'popularity': {'10': {'uniform': part}}}, 'omitted': {'popularity': {'2': 0}},
    }  # fmt: skip
