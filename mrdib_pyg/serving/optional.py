"""Packages that only serving needs."""

import importlib
from typing import Any


def require(name: str, what: str, extra: str = 'serve') -> Any:
    r"""Imports a package that may be missing.

    Args:
        name (str): The module, e.g. :obj:`"pyarrow.parquet"`.
        what (str): What needs it.
        extra (str, optional): The extra of ``setup.py`` that brings it.
            (default: :obj:`"serve"`)

    Raises:
        ImportError: If it is missing. The message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        package = {'faiss': 'faiss-cpu'}.get(name.split('.')[0], name.split('.')[0])
        raise ImportError(f"{what} needs {package}: pip install 'mrdib_pyg[{extra}]'") from e
