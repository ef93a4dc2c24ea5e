import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mrdib_pyg.nn.controls import CodeNoise, CodePenalty
from mrdib_pyg.nn.mrdib import MRdIB

#: What may sit between the two functions of a recommender.
Layer = MRdIB | CodeNoise | CodePenalty

CONTROLS: dict[str, type[CodeNoise] | type[CodePenalty]] = {'noise': CodeNoise, 'l2': CodePenalty}


def make_layer(
    mrdib: Layer | Mapping[str, Any],
    channels: dict[str, int],
    user_codes: bool,
    fused_channels: int,
) -> Layer:
    r"""Builds MRdIB or a control from its settings, or checks that one fits a model.

    Args:
        mrdib (MRdIB or Dict[str, Any]): A layer, or its settings: those of
            :class:`~mrdib_pyg.nn.MRdIB` or, with a key :obj:`"control"` of :obj:`"noise"` or
            :obj:`"l2"`, of that control.
        channels (Dict[str, int]): The width of each modality's representation in the model.
        user_codes (bool): Whether users have a representation per modality. Where they have none,
            the critics between user codes are taken out of the layer: no loss would reach them.
        fused_channels (int): The width of the model's fused embeddings.

    Raises:
        TypeError: If it is neither a layer nor settings.
        ValueError: If the layer was made for other modalities or widths, or a setting is unknown.
    """
    if isinstance(mrdib, Mapping):
        settings = dict(mrdib)
        control = settings.pop('control', None)
        if control is not None and control not in CONTROLS:
            raise ValueError(f"'control' must be one of {list(CONTROLS)} (got {control!r})")
        make: Callable[..., Layer] = MRdIB if control is None else CONTROLS[control]
        known = list(inspect.signature(make).parameters)
        for name in settings:
            if name not in known:
                raise ValueError(
                    f"'mrdib' has an unknown setting {name!r}; "
                    f'{"MRdIB" if control is None else f"the control {control!r}"} has '
                    f'{[name for name in known if name != "channels"]}'
                )
        if control is None:
            settings['user_codes'] = user_codes and settings.get('user_codes', True)
            settings['fused_channels'] = fused_channels
        if settings.get('channels') != channels:  # else in the order of a layer that had one
            settings['channels'] = channels
        return make(**settings)

    if not isinstance(mrdib, (MRdIB, CodeNoise, CodePenalty)):
        raise TypeError(
            f"'mrdib' must be an MRdIB, a control, a dictionary of settings ({{}} for the "
            f'defaults) or None (got {mrdib!r})'
        )
    if mrdib.channels != channels:
        raise ValueError(
            f"'mrdib' was made for {mrdib.channels} but the model has {channels}; pass "
            f'MRdIB({channels})'
        )
    if isinstance(mrdib, MRdIB):
        if mrdib.bottleneck != 'late' and mrdib.fused_channels != fused_channels:
            raise ValueError(
                f"'fused_channels' of 'mrdib' is {mrdib.fused_channels} but the fusion of the "
                f'model is {fused_channels} wide'
            )
        if not user_codes:
            mrdib.drop_user_critics()
    return mrdib
