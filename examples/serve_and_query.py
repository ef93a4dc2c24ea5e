"""Trains a small model, serves it over HTTP on this machine, asks it, and stops.

python examples/serve_and_query.py      # needs pip install 'mrdib_pyg[serve]'
"""

import argparse
import json
import threading
import urllib.error
import urllib.parse
import urllib.request

import uvicorn
from torch_geometric import seed_everything

from mrdib_pyg.datasets import IdMap, Planted
from mrdib_pyg.nn.models import MultimodalLightGCN
from mrdib_pyg.serving import make_app
from mrdib_pyg.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--num_users', type=int, default=300)
parser.add_argument('--epochs', type=int, default=20)
parser.add_argument('--port', type=int, default=0, help='0 takes a free one')
args = parser.parse_args()

seed_everything(0)
data = Planted(num_users=args.num_users, num_items=200)[0]
model = MultimodalLightGCN(data, channels=32, mrdib={})
weights = {'bottleneck': 1e-3, 'redundant': 5e-3, 'unique': 5e-2}
fit(model, data, epochs=args.epochs, lr=1e-2, weights=weights, progress=False)

# The ids of a shop: answers come in them, and requests are made in them.
users = IdMap(f'customer-{n}' for n in range(args.num_users))
items = IdMap(f'article-{n}' for n in range(200))
app = make_app(model, users, items)

# On the command line: `mrdib serve RUN`. Here the server is a thread of this script.
server = uvicorn.Server(uvicorn.Config(app, port=args.port, log_level='warning'))
started = threading.Event()


async def startup(sockets=None):
    await uvicorn.Server.startup(server, sockets)
    started.set()


server.startup = startup
thread = threading.Thread(target=server.run)
thread.start()
started.wait(timeout=60)
port = server.servers[0].sockets[0].getsockname()[1]


def ask(path, body=None, **query):
    address = f'http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(query)}'
    request = urllib.request.Request(address, headers={'Content-Type': 'application/json'})
    if body is not None:
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


try:
    print('health:', ask('/health')['status'])

    answer = ask('/recommend', user='customer-7', k=3, parts=True)
    for rank, entry in enumerate(answer['items'], start=1):
        parts = ', '.join(f'{name} alone {score:.2f}' for name, score in entry['parts'].items())
        print(f'{rank}. {entry["item"]}: {entry["score"]:.2f} ({parts})')

    best = answer['items'][0]['item']
    near = ask('/similar', item=best, k=3)['items']
    print(f'near {best}:', [entry['item'] for entry in near])

    body = {'users': ['customer-7', 'customer-8'], 'k': 2, 'deny': [best]}
    for result in ask('/recommend', body)['results']:
        print(f'without {best}, {result["user"]}:', [entry['item'] for entry in result['items']])

    try:
        ask('/recommend', user='nobody')
    except urllib.error.HTTPError as error:
        with error:
            print(error.code, json.load(error)['detail'])
finally:
    server.should_exit = True
    thread.join()
