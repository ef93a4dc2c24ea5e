r"""Whether the evidence finds what was planted, and nothing else.

Each case of :class:`~mrdib_pyg.datasets.Planted`, whose unequal parts have the weights 1 and 1/2,
and ``v+t`` at these weights too, at three levels of noise and three seeds: every atom that was
planted is to be found by :func:`~mrdib_pyg.evidence.inspect_data`, every other is not. The file
grows by a data set at a time; the same command continues a run that was stopped.

    python -m benchmarks.quality.evidence_truth --json benchmarks/results/evidence/truth.json
    python -m benchmarks.quality.evidence_truth --report   # the table, from the file
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables import make_table
from mrdib_pyg.datasets import Planted
from mrdib_pyg.evidence import inspect_data
from mrdib_pyg.files import write_atomic
from mrdib_pyg.training._run import provenance

Spec = dict[str, Any]
CASES: dict[str, dict[str, float]] = {
    'v': {'v': 1.0},
    't': {'t': 1.0},
    'r': {'r': 1.0},
    's': {'s': 1.0},
    'v+r': {'v': 1.0, 'r': 0.5},
    'v+s': {'v': 1.0, 's': 0.5},
    'v+t': {'v': 1.0, 't': 1.0},
    'v+t/2': {'v': 1.0, 't': 0.5},
}
#: Which atom each kind of bits is.
ATOMS = {'v': 'unique image', 't': 'unique text', 'r': 'shared', 's': 'synergy'}
NOISES, SEEDS, NUM_SHUFFLES = (0.5, 1.0, 3.0), (0, 1, 2), 1


def measure(case: str, noise: float, seed: int, **sizes: int) -> Spec:
    """The atoms of a data set."""
    data = Planted(weights=CASES[case], noise=noise, seed=seed, **sizes)[0]
    start = time.process_time()
    found = inspect_data(data, num_shuffles=NUM_SHUFFLES, seed=seed)
    atoms = {
        'unique image': found.unique['image'],
        'unique text': found.unique['text'],
        'shared': found.shared['image+text'],
        'synergy': found.synergy['image*text'],
    }
    return {
        'case': case,
        'noise': noise,
        'seed': seed,
        'cpu_seconds': round(time.process_time() - start, 2),
        'alone': {m: x.value for m, x in found.alone.items()},
        'novel': {m: x.value for m, x in found.novel.items()},
        'atoms': {
            name: {**x._asdict(), 'planted': name in {ATOMS[kind] for kind in CASES[case]}}
            for name, x in atoms.items()
        },
    }


def run(path: Path, seeds: tuple[int, ...] = SEEDS, **sizes: int) -> Spec:
    """Measures what the file does not have yet, and writes it after each data set."""
    out: Spec = {'benchmark': 'evidence_truth', 'num_shuffles': NUM_SHUFFLES, **provenance()}
    out['rows'] = []
    if path.exists():
        out = json.loads(path.read_text())
    done = {(row['case'], row['noise'], row['seed']) for row in out['rows']}
    for seed in seeds:
        for noise in NOISES:
            for case in CASES:
                if (case, noise, seed) in done:
                    continue
                out['rows'].append(measure(case, noise, seed, **sizes))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, (json.dumps(out, indent=1) + '\n').encode())
                wrong = [
                    n for n, x in out['rows'][-1]['atoms'].items() if x['found'] != x['planted']
                ]
                print(f'{case}, noise {noise}, seed {seed}: wrong {wrong}', flush=True)
    return out


def table(result: Spec) -> str:
    """A row for each case and noise: the mean of each atom in 1e-5 nats per entry, and in how many
    of the seeds it was found; what was planted is bold, what is wrong in a seed is marked.
    """
    groups: dict[tuple[str, float], list[Spec]] = {}
    for row in result['rows']:
        groups.setdefault((row['case'], row['noise']), []).append(row)
    names = list(ATOMS.values())
    out = []
    for (case, noise), rows in sorted(
        groups.items(), key=lambda x: (list(CASES).index(x[0][0]), x[0])
    ):
        line = [f'`{case}`', f'{noise:g}']
        for name in names:
            atoms = [row['atoms'][name] for row in rows]
            planted, count = atoms[0]['planted'], sum(x['found'] for x in atoms)
            mean = 1e5 * sum(x['value'] for x in atoms) / len(atoms)
            right = count == (len(atoms) if planted else 0)
            text = f'{mean + 0.0:.1f}, {count} of {len(atoms)}'
            line.append((f'**{text}**' if planted else text) + ('' if right else ' ✗'))
        out.append(line)
    return make_table(['planted', 'noise', *names], out)


def main() -> None:
    parser = argparse.ArgumentParser(description='Planted atoms by evidence.')
    parser.add_argument('--json', type=Path, default=Path('benchmarks/results/evidence/truth.json'))
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--report', action='store_true', help='only report what the file has')
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(args.json.read_text()) if args.report else run(args.json, args.seeds)
    print(table(result))


if __name__ == '__main__':
    main()
