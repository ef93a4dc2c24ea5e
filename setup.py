import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / 'README.md'


def read_version() -> str:
    """The version, read without importing the package (which would need torch)."""
    text = (ROOT / 'mrdib_pyg' / '__init__.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError("no line __version__ = '...' in mrdib_pyg/__init__.py")
    return match.group(1)


install_requires = [
    'torch>=2.11',  # the oldest release it is tested on
    'torch-geometric>=2.8',
    'numpy>=1.26',
    'scipy>=1.11',
    'pandas>=2.2',
    'scikit-learn>=1.4',
    'ogb>=1.3.6',
    'tqdm>=4.60',
]

report = ['matplotlib>=3.8', 'altair>=6.0', 'vl-convert-python>=1.9', 'jinja2>=3.1']
# The oldest releases that work with NumPy 2.
data = ['duckdb>=1.3', 'pyarrow>=17', 'safetensors>=0.4.3']
text = ['sentence-transformers>=3.0']
serve = [*data, 'fastapi>=0.110', 'uvicorn>=0.29', 'faiss-cpu>=1.9']
test = [
    'pytest>=8.0',
    'hypothesis>=6.100',
    'pydantic>=2.9',  # the form of the results of benchmarks
    "triton>=3.4; platform_system == 'Linux'",
    # Decompositions are compared with its own; its solver comes as wheels for these two.
    "dit[broja]>=2.3; python_version >= '3.11' and python_version < '3.13'",
    'altair>=6.0',
    'vl-convert-python>=1.9',
    'selenium>=4.20',
    'httpx2>=2.0',  # by which starlette tests an application
    *serve,
]
dev = [*test, 'ruff>=0.17.6,<0.18', 'mypy>=2.4,<3', 'types-tqdm', 'pandas-stubs']

extras_require = {
    # Both are compiled against the torch that is installed:
    # pip install --no-build-isolation '.[sparse]'
    'sparse': ['torch-scatter>=2.1.2', 'torch-sparse>=0.6.18'],
    'report': report,
    'data': data,
    'text': text,
    'serve': serve,
    'test': test,
    'dev': dev,
    'full': sorted({*report, *data, *text, *serve, *dev}),  # all but sparse
}

setup(
    name='mrdib_pyg',
    version=read_version(),
    description='Multimodal recommendation with a representation-disentangled information '
    'bottleneck on PyTorch Geometric',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    author='The mrdib_pyg authors',
    license='MIT',
    keywords=[
        'recommender systems',
        'multimodal',
        'graph neural networks',
        'information bottleneck',
        'partial information decomposition',
    ],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['mrdib_pyg', 'mrdib_pyg.*']),
    package_data={'mrdib_pyg': ['py.typed', 'report/assets/*', 'serving/pages/*.html']},
    install_requires=install_requires,
    extras_require=extras_require,
    entry_points={'console_scripts': ['mrdib = mrdib_pyg.cli:main']},
    zip_safe=False,
)
