from mrdib_pyg.datasets._values import as_id, join_text  # noqa: F401
