"""Amazon Baby from its raw files: prepares a folder, trains without and with MRdIB, recommends.

python examples/amazon_baby.py --root data/amazon                # MiniLM: pip install '.[text]'
python examples/amazon_baby.py --root data/amazon --text-encoder hashing
python examples/amazon_baby.py --root data/amazon --dry-run      # what would be read

Missing raw files are downloaded into ROOT/raw: about 3 GB, most of it image features.
"""

import argparse
from pathlib import Path

import torch
from torch_geometric import seed_everything

from mrdib_pyg.datasets import AmazonReviews
from mrdib_pyg.evaluation import evaluate
from mrdib_pyg.nn import MRdIB
from mrdib_pyg.nn.models import FREEDOM
from mrdib_pyg.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--root', default='data/amazon', help='the folder of the raw files')
parser.add_argument('--category', default='Baby', help='Baby, Sports, Clothing, or any other')
parser.add_argument('--text-encoder', default='minilm', help='minilm, hashing, or a folder')
parser.add_argument('--epochs', type=int, default=200)
parser.add_argument('--channels', type=int, default=64)
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--quiet', action='store_true', help='no progress bars')
parser.add_argument('--dry-run', action='store_true', help='only say which files are there')
args = parser.parse_args()

if args.dry_run:
    from mrdib_pyg.datasets.amazon import find_category, raw_files

    for name, url in raw_files(find_category(args.category)).items():
        places = [Path(args.root) / name, Path(args.root) / 'raw' / name]
        found = [str(path) for path in places if path.is_file()]
        print(f'{name}: {found[0] if found else f"missing, from {url}"}')
    raise SystemExit

# The first call reads the raw files; later ones find the folder that it wrote.
dataset = AmazonReviews(
    args.root, args.category, text_encoder=args.text_encoder, progress=not args.quiet
)
print(dataset.report)
data = dataset[0]
device = 'cuda' if torch.cuda.is_available() else 'cpu'


def train(mrdib, weights):
    seed_everything(args.seed)
    model = FREEDOM(data, channels=args.channels, mrdib=mrdib).to(device)
    fit(model, data, epochs=args.epochs, weights=weights, seed=args.seed, progress=not args.quiet)
    return model


def test(name, model):
    metrics = evaluate(model, data, 'test', k=(10, 20))
    print(f'{name}: recall@20 {metrics["recall@20"]:.4f}, ndcg@20 {metrics["ndcg@20"]:.4f}')


plain = train(None, {})
test('plain', plain)
mrdib = MRdIB({'image': args.channels, 'text': args.channels}, user_codes=False)
model = train(mrdib, {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2})
test('MRdIB', model)

score, item = model.recommend(torch.tensor([0]), k=5)
print(f'for {dataset.user_ids[0]}:', [dataset.item_ids[i] for i in item[0].tolist()])
