from torch import nn

_ATTRIBUTES = nn.ModuleDict()


class ModalityDict(nn.ModuleDict):
    r"""A :class:`~torch.nn.ModuleDict` with a module per modality, by its name: one that a
    :class:`~torch.nn.ModuleDict` refuses, since it has an attribute of that name, as it has a
    ``type`` and ``items``, included.
    """

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_to_key(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_to_key(key), module)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and super().__contains__(_to_key(key))


def _to_key(name: str) -> str:
    # Other names stay as they are: those of parameters in checkpoints hold them.
    return f'modality_{name}' if hasattr(_ATTRIBUTES, name) else name
