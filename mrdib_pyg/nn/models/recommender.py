import copy
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from mrdib_pyg.distributed import Columns
from mrdib_pyg.interactions import num_nodes, training_edges
from mrdib_pyg.nn.controls import CodeNoise, CodePenalty
from mrdib_pyg.nn.models.batch import Embeddings, Pair, Rows, Triplets, bpr_loss, to_local
from mrdib_pyg.nn.models.cold_start import ColdStart
from mrdib_pyg.nn.models.features import ModalityFeatures
from mrdib_pyg.nn.mrdib import MRdIB, check_loss
from mrdib_pyg.ops import NormalizedAdjacency, sampled_softmax_loss
from mrdib_pyg.ops._fixed_shapes import has_fixed_shapes
from mrdib_pyg.ops._sampled_softmax_loss import draw_shared_negatives
from mrdib_pyg.ops.rows import linear_rows

#: The layers that fit between the two functions of a recommender.
Layer = MRdIB | CodeNoise | CodePenalty

CONTROLS: dict[str, type[CodeNoise] | type[CodePenalty]] = {'noise': CodeNoise, 'l2': CodePenalty}


def make_layer(
    mrdib: Layer | Mapping[str, Any],
    channels: dict[str, int],
    user_codes: bool,
    fused_channels: int,
) -> Layer:
    r"""Builds MRdIB or a control from its settings, or copies one after checking that it fits.

    Args:
        mrdib (MRdIB or Dict[str, Any]): A layer, which is left as it is, or settings: those of
            :class:`~mrdib_pyg.nn.MRdIB` or, with a key :obj:`"control"` of :obj:`"noise"` or
            :obj:`"l2"`, of that control.
        channels (Dict[str, int]): The width of each modality's representation in the model.
        user_codes (bool): Whether users have a representation per modality. If not, the copy has
            no critics between user codes: no loss would reach them.
        fused_channels (int): The width of the model's fused embeddings.

    Raises:
        TypeError: If it is neither a layer nor settings.
        ValueError: If the layer has other modalities or widths, or a setting is unknown.
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
        if settings.get('channels') != channels:  # else keep their order, which numbers the critics
            settings['channels'] = channels
        return make(**settings)

    if not isinstance(mrdib, (MRdIB, CodeNoise, CodePenalty)):
        raise TypeError(
            f"'mrdib' must be an MRdIB, a control, a dictionary of settings ({{}} for the "
            f'defaults) or None (got {mrdib!r})'
        )
    if mrdib.channels != channels:
        raise ValueError(
            f"'mrdib' must be for the channels {channels} (got {mrdib.channels}); pass "
            f'MRdIB({channels})'
        )
    if isinstance(mrdib, MRdIB):
        if mrdib.bottleneck != 'late' and mrdib.fused_channels != fused_channels:
            raise ValueError(
                f"'fused_channels' of 'mrdib' must be {fused_channels}, the width of the model's "
                f'fusion (got {mrdib.fused_channels})'
            )
    mrdib = copy.deepcopy(mrdib)
    if isinstance(mrdib, MRdIB) and not user_codes:
        mrdib.drop_user_critics()
    return mrdib


#: What a value must be, in words.
_NAMES = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a word'}


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    r"""Returns the arguments of a model's constructor by name, without :obj:`self` and
    :obj:`data`. ``**kwargs`` stand for those of the next constructor in the order of bases.
    """
    out: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)['__init__']).parameters.values())[2:]
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for parameter in parameters:
            if parameter.kind not in variadic:
                out.setdefault(parameter.name, parameter)
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return out


def check_values(cls: type, settings: Mapping[str, Any]) -> None:
    r"""Checks settings against the annotations of a model's constructor, as far as these are plain
    types. A default always fits. Without an annotation everything fits, except where the default is
    a truth value.

    Raises:
        ValueError: If a value has another type.
    """
    arguments = constructor_arguments(cls)
    for name, value in settings.items():
        parameter = arguments[name]
        hint = parameter.annotation
        if value is parameter.default:  # e.g. None where the annotation is an integer
            continue
        is_unknown = hint is inspect.Parameter.empty or isinstance(hint, str)
        if is_unknown and isinstance(parameter.default, bool):
            hint = bool  # 'no' would be true
        wanted = _alternatives(hint)
        if not any(_fits(value, x) for x in wanted):
            names = [_NAMES.get(x, 'a list') for x in wanted if x is not type(None)]
            names += ['none'] if type(None) in wanted else []
            raise ValueError(f"the setting '{name}' must be {' or '.join(names)} (got {value!r})")


def _alternatives(hint: Any) -> list[Any]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if is_union else (hint,)
    return [typing.get_origin(x) or (type(None) if x is None else x) for x in parts]


def _fits(value: Any, hint: Any) -> bool:
    if hint is int or hint is bool or hint is str:
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if hint is type(None):
        return value is None
    if hint in (list, tuple, Sequence):
        return isinstance(value, (list, tuple))
    return True


class Recommender(ColdStart):
    r"""The base class of all multimodal recommenders: two functions between which
    :class:`~mrdib_pyg.nn.MRdIB` sits.

    A subclass implements :meth:`modality_embeddings`, the representations of each modality, and
    :meth:`fuse`, which turns them into the users and items whose inner product is the score. It may
    override :meth:`unimodal`, :meth:`task_loss`, :meth:`extra_losses`, :meth:`on_epoch_start` and
    the weights of its own terms in :attr:`loss_weights`. It must store each argument of its
    constructor under its name. It draws random numbers from PyTorch, which
    :func:`~mrdib_pyg.training.fit` seeds in each epoch, so that a resumed training draws the same.
    For items unseen in training see :class:`ColdStart`.

    Args:
        data (HeteroData): The training graph: edges ``('user', 'rates', 'item')``, item features
            ``data['item'].x_<modality>`` and, where some are missing, boolean masks
            ``data['item'].has_<modality>``. Features are kept out of the state dict.
        channels (int): The width of every representation.
        mrdib (MRdIB or Dict[str, Any], optional): The layer between the two functions, or its
            settings without :obj:`channels`; :obj:`None` is the plain model. A control
            (:class:`~mrdib_pyg.nn.CodePenalty`, :class:`~mrdib_pyg.nn.CodeNoise`) may take its
            place. The model holds a copy of a layer, with fresh parameters. (default: :obj:`None`)
        feature_scaling (str, optional): :obj:`"standard"` (zero mean and unit variance per column
            over the items that have the modality), :obj:`"row"` (unit Euclidean norm per item) or
            :obj:`None`. (default: :obj:`None`)
        task (str, optional): The task loss: :obj:`"bpr"` sets a positive item against its own
            negative, :obj:`"ssm"` (sampled softmax) against :obj:`num_negatives` of the batch that
            all rows share, see :func:`~mrdib_pyg.ops.sampled_softmax_loss`. A model with a task
            loss of its own, such as :class:`BM3`, refuses :obj:`"ssm"`. (default: :obj:`"bpr"`)
        num_negatives (int, optional): The number of negatives of :obj:`"ssm"`; a batch with fewer
            yields all of them. (default: :obj:`128`)

    Raises:
        ValueError: If the data has no training edge, no modality, the layer does not fit, or a
            setting is out of range.
    """

    #: Whether users have a representation per modality.
    user_codes: bool = True
    #: Whether an embedding depends on the codes of its own row only. The two functions of the model
    #: are then asked for the ``rows`` of a batch alone. Otherwise ``rows`` is always :obj:`None`.
    row_wise: bool = True
    #: Whether :meth:`fuse` takes posteriors in place of plain codes.
    fuse_posteriors: bool = False
    #: Whether the model reads item features at all.
    multimodal: bool = True
    #: Whether the model takes its tables through :meth:`whole`, and maps into their channels by
    #: :meth:`to_channels`, so that :func:`mrdib_pyg.distributed.shard` may split them by channels.
    splits_channels: bool = False
    #: The factor of the learning rate after each epoch of :func:`~mrdib_pyg.training.fit`.
    lr_decay: float = 1.0
    #: The best published settings by data set, where they differ from the defaults.
    presets: dict[str, dict[str, Any]] = {}

    train_edge_index: Tensor

    def __init__(
        self,
        data: HeteroData,
        channels: int,
        mrdib: None | Layer | Mapping[str, Any] = None,
        feature_scaling: str | None = None,
        task: str = 'bpr',
        num_negatives: int = 128,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"'channels' must be positive (got {channels})")
        check_loss('task', task, ('bpr', 'ssm'), num_negatives)
        if task != 'bpr' and type(self).task_loss is not Recommender.task_loss:
            raise ValueError(
                f"'task' must be 'bpr', the default (got '{task}'): {type(self).__name__} has a "
                f'task loss of its own, which reads no such negatives'
            )
        self.channels = channels
        self.task, self.num_negatives = task, num_negatives
        self.feature_scaling = feature_scaling
        self.columns: Columns | None = None
        self.num_users, self.num_items = num_nodes(data, 'user'), num_nodes(data, 'item')
        edge_index = training_edges(data).clone()  # A later change is not ours.
        self.register_buffer('train_edge_index', edge_index, persistent=False)
        self.adj = NormalizedAdjacency(edge_index, num_nodes=(self.num_users, self.num_items))

        self.modalities: list[str] = []
        if self.multimodal:
            self.item_features = ModalityFeatures(data, edge_index, feature_scaling)
            self.modalities = self.item_features.names
            if len(self.modalities) == 0:
                raise ValueError(
                    f"{type(self).__name__} needs item features: set data['item'].x_<modality>, "
                    f"e.g. data['item'].x_image (in a data folder, image_feat.npy), or take "
                    f'LightGCN, which needs none'
                )
        self.mrdib: Layer | None = None
        if mrdib is not None:
            if not self.multimodal:
                raise ValueError(
                    f'{type(self).__name__} reads no modality, so there is nothing for MRdIB to '
                    f"encode; leave out 'mrdib'"
                )
            self.mrdib = make_layer(
                mrdib,
                channels={name: channels for name in self.modalities},
                user_codes=self.user_codes,
                fused_channels=self.out_channels,
            )

    # -- what a subclass provides ------------------------------------------------------------

    def modality_embeddings(self, rows: Rows | None = None) -> dict[str, Pair]:
        r"""Returns per modality the pair ``(user [U, C] or None, item [I, C])``, or only the rows
        asked for.
        """
        raise NotImplementedError(f'{type(self).__name__} has no modality_embeddings()')

    def fuse(self, codes: Mapping[str, Any], rows: Rows | None = None) -> Embeddings:
        r"""Turns the codes, in the form of :meth:`modality_embeddings`, into the users and items
        whose inner product is the score.
        """
        raise NotImplementedError(f'{type(self).__name__} has no fuse()')

    def unimodal(
        self, codes: Mapping[str, Pair], embeddings: Embeddings
    ) -> dict[str, tuple[Tensor, Tensor]]:
        r"""Returns per modality the users and items whose inner product scores by this modality
        alone: by default its codes, with the model's user embedding where users have none.
        """
        return {
            name: (embeddings.user if user is None else user, item)
            for name, (user, item) in codes.items()
        }

    def joint(
        self, codes: Mapping[str, Pair], embeddings: Embeddings, rows: Rows | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the users and items whose inner product scores by all modalities together, for
        the synergistic term: by default those of the ranking score.
        """
        return embeddings.user, embeddings.item

    @property
    def joint_is_score(self) -> bool:
        r"""Whether :meth:`joint` returns the users and items of the ranking score."""
        return type(self).joint is Recommender.joint

    def fuse_content(
        self, codes: Mapping[str, Any], held: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the users and items whose inner product scores by the codes alone: those of
        :meth:`joint`, with the ID path held at its mean. For measurements, not for training.

        The default is exact where :meth:`fuse` adds the ID path to the fused codes: it subtracts
        the fusion of :obj:`held` and adds its mean. Users without codes keep their embedding.

        Args:
            codes (Dict[str, Tuple[Any, Any]]): The codes of all rows, as :meth:`fuse` takes them.
            held (Dict[str, Tuple[Any, Any]]): The same with every code at its mean.
        """
        (user, item), (held_user, held_item) = (self._fuse_all(x) for x in (codes, held))
        item = item - held_item + held_item.mean(dim=0)
        if self.user_codes:
            user = user - held_user + held_user.mean(dim=0)
        return user, item

    def task_loss(self, embeddings: Embeddings, batch: Triplets) -> Tensor:
        r"""The task loss, by default the Bayesian personalized ranking loss of
        `arXiv:1205.2618 <https://arxiv.org/abs/1205.2618>`_ or, with :obj:`task="ssm"`, the sampled
        softmax loss.
        """
        if self.task == 'bpr':
            return bpr_loss(embeddings.user, embeddings.item, batch)
        src, pos, neg = batch
        drawn = draw_shared_negatives(neg, self.num_negatives)
        return sampled_softmax_loss(embeddings.user, embeddings.item, src, pos, drawn)

    def extra_losses(self, embeddings: Embeddings, batch: Triplets) -> dict[str, Tensor]:
        r"""The model's own further terms by name, weighted by :attr:`loss_weights`."""
        return {}

    def on_epoch_start(self, epoch: int, generator: torch.Generator) -> None:
        r"""Called before each epoch, e.g. to redraw a graph, with a :obj:`generator` seeded by the
        run and the epoch.
        """

    @property
    def out_channels(self) -> int:
        r"""The width of the fused embeddings."""
        return self.channels

    @property
    def loss_weights(self) -> dict[str, float]:
        r"""The default weight of every term of :meth:`loss`."""
        return {'task': 1.0}

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        if self.mrdib is not None:
            self.mrdib.reset_parameters()

    # -- given --------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        r"""The arguments of the constructor except :obj:`data`: ``type(model)(data, **config)``
        rebuilds the model.

        Raises:
            ValueError: If an argument is not stored under its name.
        """
        out: dict[str, Any] = {}
        for name in constructor_arguments(type(self)):
            # For an AttributeError, nn.Module would say that there is no `config`.
            if not hasattr(self, name):
                raise ValueError(
                    f"{type(self).__name__} must store the argument '{name}' of its constructor "
                    f'(self.{name} = {name}): a checkpoint rebuilds the model from it'
                )
            out[name] = getattr(self, name)
        if 'mrdib' in out:
            out['mrdib'] = None if self.mrdib is None else self.mrdib.config
        return out

    def features(self, name: str, rows: Tensor | None = None) -> Tensor:
        r"""Returns the scaled features of a modality, ``[I, F]``, or the given rows, with zeros
        where an item lacks it.
        """
        x = self.item_features(name, rows)
        return self._drop(name, x, rows) if self.item_features.is_dropping else x

    def map_features(
        self, name: str, lin: nn.Module, rows: Tensor | None = None, table: Tensor | None = None
    ) -> Tensor:
        r"""Maps the scaled features of a modality, or the given rows, by a linear layer. A
        :obj:`table` of trained features takes their place.
        """
        assert isinstance(lin, nn.Linear)
        x = self.item_features(name) if table is None else table
        if rows is None and not self.item_features.is_dropping:
            return lin(x)
        out = F.linear(x, lin.weight) if rows is None else linear_rows(x, rows, lin.weight)
        if self.item_features.is_dropping:  # fewer columns than the features have
            out = self._drop(name, out, rows)
        return out if lin.bias is None else out + lin.bias

    def _drop(self, name: str, x: Tensor, rows: Tensor | None) -> Tensor:
        present = self.present()
        assert present is not None
        mask = present[name][1] if rows is None else present[name][1][rows]
        return x * mask.unsqueeze(-1)

    def whole(self, *x: Tensor, channels: int | None = None) -> tuple[Tensor, ...]:
        r"""Returns rows of tables, or of what is propagated from them, with all their channels:
        where :func:`mrdib_pyg.distributed.shard` has split them, gathered from all processes.

        Args:
            *x (torch.Tensor): Rows as this process holds them.
            channels (int, optional): How many channels all processes hold together.
                (default: :obj:`None`, those of the model)
        """
        if self.columns is None:
            return x
        width = self.channels if channels is None else channels
        out = self.columns.gather(torch.cat(x) if len(x) > 1 else x[0], width)
        return out.split([part.size(0) for part in x])

    def repeat(self, module: nn.Module, x: Tensor) -> Tensor:
        r"""Applies a module to what :meth:`to_channels` maps next."""
        return module(x) if self.columns is None else self.columns.apply(module, x)

    def to_channels(self, x: Tensor, lin: nn.Module) -> Tensor:
        r"""Maps rows into the channels of a table, to be propagated next to it, by a linear layer.
        A process computes the channels that it holds.
        """
        return lin(x) if self.columns is None else self.columns.linear(x, lin)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        # What DistributedDataParallel asks a module for first. It would reduce no gradient of
        # `loss`, which is not `forward`, and the processes would part without an error.
        raise RuntimeError(
            f'{type(self).__name__} must not be wrapped into DistributedDataParallel, which '
            f"reduces no gradient of its loss; pass 'mesh' to mrdib_pyg.training.fit, or call "
            f'mrdib_pyg.distributed.shard(model, mesh) and train by model.loss(batch) with the '
            f'same batch in every process'
        )

    def present(self, rows: Rows | None = None) -> dict[str, Pair] | None:
        r"""Returns per modality the masks of users and items that have it, or :obj:`None` if every
        item has every modality. Users have it if any of their items does.
        """
        if not self.multimodal:
            return None
        return self.item_features.present(rows, self.user_codes)

    def masked_codes(
        self, codes: Mapping[str, Pair], rows: Rows | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        r"""Returns the codes of users and of items as lists over modalities, with zeros where a row
        lacks the modality.
        """
        present = self.present(rows)
        out: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, pair in codes.items():
            for side, code in enumerate(pair):
                if code is None:
                    continue
                mask = None if present is None else present[name][side]
                out[side].append(code if mask is None else code * mask.unsqueeze(-1))
        return out

    def sum_items(self, codes: Mapping[str, Pair], rows: Rows | None = None) -> Tensor:
        r"""Returns the sum of the item codes over the modalities each item has."""
        return _sum(self.masked_codes(codes, rows)[1])

    def forward(self) -> Embeddings:
        r"""Returns the embeddings of all users and items."""
        return self._embed(None)[0]

    def loss(self, batch: Triplets) -> dict[str, Tensor]:
        r"""Computes the named, unweighted terms of the loss: ``task``, the model's own, and, with
        MRdIB, ``bottleneck``, ``redundant``, ``unique`` and ``synergistic``. With its decoder
        :obj:`"nce"`, ``information_<modality>`` reports what each modality's decoder certifies.

        Args:
            batch (Triplets): Ids of users, positive and negative items.
        """
        rows, local = None, batch
        if self.row_wise and not has_fixed_shapes():
            rows, local = to_local(batch)
        embeddings, posteriors, codes, fused, plain = self._embed(rows)
        terms = {'task': self.task_loss(embeddings, local)}
        terms.update(self.extra_losses(embeddings, local))
        if self.mrdib is not None:
            # The task on the joint score is the synergistic term: do not compute it twice.
            is_task = type(self).task_loss is Recommender.task_loss and self.joint_is_score
            is_task = is_task and fused is None
            has_rate = fused is not None
            if not has_rate and not is_task:
                fused = self.joint(codes, embeddings, rows)
            pid = self.mrdib.loss(
                posteriors,
                *local,
                user_embedding=embeddings.user,
                fused=fused,
                unimodal=self.unimodal(codes, embeddings),
                present=self.present(rows),
            )
            synergistic = terms['task'].detach() if is_task else pid.synergistic
            if has_rate and not self.joint_is_score:  # the rate belongs to the ranking score
                joint = self._encode_fused(*self.joint(codes, plain, rows))
                synergistic = bpr_loss(*joint, local)
            named = {**pid._asdict(), 'synergistic': synergistic}
            for name, value in (named.pop('information') or {}).items():
                named[f'information_{name}'] = value
            terms.update({name: term for name, term in named.items() if term is not None})
        return terms

    def _embed(
        self, rows: Rows | None
    ) -> tuple[Embeddings, dict[str, Any], dict[str, Pair], Any, Embeddings]:
        # The last are the embeddings before a bottleneck of the fusion.
        if torch.is_grad_enabled():
            self.forget(until_mode_is_set=True)  # training may follow
        x = self.modality_embeddings(rows)
        self._check_rows('modality_embeddings', rows, *x.values())
        if self.mrdib is None:
            embeddings = self._fuse_checked(x, rows)
            return embeddings, {}, x, None, embeddings
        posteriors: dict[str, Any] = self.mrdib(x)
        codes: dict[str, Pair] = {
            m: (None if u is None else u.z, i.z) for m, (u, i) in posteriors.items()
        }
        embeddings = plain = self._fuse_checked(posteriors if self.fuse_posteriors else codes, rows)
        fused: Any = None
        if isinstance(self.mrdib, MRdIB) and self.mrdib.fused_bottleneck is not None:
            fused = self.mrdib.encode_fused((embeddings.user, embeddings.item))
            user, item = (posterior.z for posterior in fused)
            embeddings = Embeddings(user, item, plain.views)
        return embeddings, posteriors, codes, fused, plain

    def _fuse_checked(self, codes: Mapping[str, Any], rows: Rows | None) -> Embeddings:
        embeddings = self.fuse(codes, rows)
        if not isinstance(embeddings, Embeddings):
            raise TypeError(
                f'{type(self).__name__}.fuse() must return Embeddings(user, item) (got '
                f'{type(embeddings).__name__})'
            )
        self._check_rows('fuse', rows, embeddings[:2])
        return embeddings

    def _check_rows(self, method: str, rows: Rows | None, *pairs: Pair) -> None:
        # A batch is numbered by its rows: with other rows it would silently read wrong ones.
        if rows is None:
            return
        for pair in pairs:
            for side, x, index in zip(('users', 'items'), pair, rows):
                if x is not None and x.size(0) != index.numel():
                    raise ValueError(
                        f'{type(self).__name__}.{method}() must return the {index.numel()} {side} '
                        f"of 'rows', in their order (got {x.size(0)}); or set row_wise = False in "
                        f'the class'
                    )

    def _fuse_all(self, codes: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        # The users and items of the joint score; `codes` are plain codes or posteriors.
        plain: dict[str, Pair] = {
            m: tuple(getattr(x, 'z', x) for x in pair) for m, pair in codes.items()
        }
        embeddings = self.fuse(codes if self.fuse_posteriors else plain)
        return self._encode_fused(*self.joint(plain, embeddings))

    def _encode_fused(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.mrdib, MRdIB) or self.mrdib.fused_bottleneck is None:
            return user, item
        encoded: Any = self.mrdib.encode_fused((user, item))
        return encoded[0].z, encoded[1].z

    def _apply(self, fn: Any, recurse: bool = True) -> 'Recommender':
        super()._apply(fn, recurse)
        like = fn(torch.empty(0, dtype=torch.get_default_dtype(), device='cpu'))
        for name, value in vars(self).items():
            if isinstance(value, NormalizedAdjacency):
                setattr(self, name, value.to(device=like.device, dtype=like.dtype))
        self.forget()
        return self

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_users={self.num_users}, num_items={self.num_items}, '
            f'channels={self.channels}, mrdib={self.mrdib})'
        )


def _sum(terms: list[Tensor]) -> Tensor:
    out = terms[0]
    for term in terms[1:]:
        out = out + term
    return out
