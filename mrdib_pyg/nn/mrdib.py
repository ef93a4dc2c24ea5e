"""MRdIB as a layer: bottlenecks, critics, and the terms of the loss over a batch."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mrdib_pyg.nn.bottleneck import (
    Codes,
    ModalityRows,
    Posterior,
    VariationalBottleneck,
    encode,
    module_key,
    rate_of,
)
from mrdib_pyg.nn.mutual_information import CLUB, MINE, NWJ, Gaussian, InfoNCE
from mrdib_pyg.nn.sides import (
    Mask,
    Sides,
    Triplet,
    critic_rows,
    make_all_sides,
    mean_over_batch,
)
from mrdib_pyg.ops import pid_loss, sampled_softmax_loss
from mrdib_pyg.ops._sampled_softmax_loss import draw_shared_negatives


class PIDTerms(NamedTuple):
    r"""The unweighted loss terms of MRdIB (`arXiv:2509.20225 <https://arxiv.org/abs/2509.20225>`_),
    scalars in nats.

    Args:
        bottleneck (torch.Tensor): The rate :math:`\sum_m \mathrm{KL}(q(z_m|x_m) \,\|\,
            \mathcal{N}(0, I))`, a mean over the rows of the batch.
        redundant (torch.Tensor): The estimate of :math:`\frac{1}{M - 1} \sum_{m < n} I(Z_m; Z_n)`
            over the pairs of :math:`M` modalities, zero for a single one. Each code stands in
            :math:`M - 1` pairs, so the pressure on a code does not depend on :math:`M`. The paper
            has :math:`M = 2` and one pair.
        unique (torch.Tensor): The loss of the decoders that see one modality each,
            :math:`-\sum_m \mathbb{E} \log p(y|z_m)`.
        synergistic (torch.Tensor, optional): The loss of the decoder that sees the fusion,
            :math:`-\mathbb{E} \log p(y|z_1, \ldots, z_M)`, where a fused representation was given.
        information (Dict[str, torch.Tensor], optional): With :obj:`decoder="nce"`, what the decoder
            of each modality certifies that its code says of which item is the positive one:
            :math:`\ln(K + 1)` less its loss, with the number :math:`K` of negatives drawn. It has
            no gradient. It is negative where the decoder does worse than a guess, and zero where no
            row counts.
    """

    bottleneck: Tensor
    redundant: Tensor
    unique: Tensor
    synergistic: Tensor | None = None
    information: dict[str, Tensor] | None = None

    def total(self, bottleneck: float = 0.0, redundant: float = 0.0, unique: float = 0.0) -> Tensor:
        r"""Returns the weighted sum of the named terms. :obj:`synergistic` is the model's own task
        loss and is never added a second time.

        Args:
            bottleneck (float, optional): Weight of the rate. (default: :obj:`0.0`)
            redundant (float, optional): Weight of the redundancy. (default: :obj:`0.0`)
            unique (float, optional): Weight of the unimodal decoders. (default: :obj:`0.0`)

        Raises:
            ValueError: If a weight is negative.
        """
        weights = {'bottleneck': bottleneck, 'redundant': redundant, 'unique': unique}
        out = self.bottleneck.new_zeros(())
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"the weight '{name}' must not be negative (got {weight})")
            if weight > 0:
                out = out + weight * getattr(self, name)
        return out


def check_loss(argument: str, value: Any, known: Sequence[str], num_negatives: Any) -> None:
    r"""Refuses an unknown loss, or a number of negatives that is no positive integer."""
    if value not in known:
        raise ValueError(f"'{argument}' must be one of {list(known)} (got {value!r})")
    if type(num_negatives) is not int or num_negatives < 1:
        raise ValueError(f"'num_negatives' must be a positive integer (got {num_negatives!r})")


ESTIMATORS: dict[str, Callable[..., nn.Module]] = {
    'mine': MINE,
    'nwj': NWJ,
    'infonce': InfoNCE,
    'club': CLUB,
    'gaussian': Gaussian,
}


class MRdIB(nn.Module):
    r"""The Multimodal Representation-disentangled Information Bottleneck from `"Multimodal
    Representation-disentangled Information Bottleneck for Multimodal Recommendation"
    <https://arxiv.org/abs/2509.20225>`_.

    Each modality's representation passes a variational bottleneck. :meth:`loss` returns, by name
    and unweighted, the rate of the bottlenecks, the *redundant* information that two codes share
    (to be minimized), and the loss of *unique* decoders that see a single code each,

    .. math::
        \mathcal{L} = -\mathbb{E} \log p(y|z_1, \ldots, z_M)
        + \beta \sum_m \mathrm{KL}(q(z_m|x_m) \,\|\, \mathcal{N}(0, I))
        + \lambda_R \, \hat{I}(Z_1; Z_2)
        - \lambda_U \sum_m \mathbb{E} \log p(y|z_m)

    where the first term is the task loss of the model around it. The critics of the redundancy
    learn by gradient reversal, so one backward pass and one optimizer train everything.

    .. code-block:: python

        mrdib = MRdIB({'image': 64, 'text': 64})
        codes = mrdib({'image': (user_image, item_image), 'text': (user_text, item_text)})
        terms = mrdib.loss(codes, src_index, dst_pos_index, dst_neg_index)
        loss = bpr + terms.total(bottleneck=1e-3, redundant=5e-3, unique=5e-2)

    Args:
        channels (Dict[str, int]): The width of each modality's representation, by its name.
        redundancy (str or Callable, optional): The estimator of :math:`I(Z_1; Z_2)`:
            :obj:`"mine"` (that of the paper), :obj:`"nwj"`, :obj:`"infonce"`, :obj:`"club"`,
            :obj:`"gaussian"`, any callable :obj:`(in_channels_1, in_channels_2, hidden_channels)`
            that returns a :class:`~mrdib_pyg.nn.mutual_information.MutualInformation` (the layer
            keeps a copy), or :obj:`None` for a redundancy of zero. In our measurements
            (``docs/PID.md``) :obj:`"gaussian"` lowered the redundancy most reliably: it has no
            critic to train, but needs batches of more rows than the codes are wide.
            (default: :obj:`"mine"`)
        bottleneck (str, optional): Where the bottleneck sits, after `"Multimodal Information
            Bottleneck" <https://arxiv.org/abs/2210.17444>`_: :obj:`"late"` (one per modality),
            :obj:`"early"` (one after the fusion, see :meth:`encode_fused`) or :obj:`"complete"`
            (both). (default: :obj:`"late"`)
        fused_channels (int, optional): The width of the fused representation, needed by
            :obj:`"early"` and :obj:`"complete"`. (default: :obj:`None`)
        hidden_channels (int, optional): The width of the critics. (default: :obj:`64`)
        user_codes (bool, optional): If set to :obj:`False`, there are no critics between user
            codes: for models in which only items have a representation per modality (:meth:`loss`
            then takes a :obj:`user_embedding`), and for one id space of users and items.
            (default: :obj:`True`)
        num_critic_rows (int, optional): The most rows of a batch that an estimator reads in
            training, a fresh sample in each call; its cost is proportional to them. :obj:`None`
            takes all, as the Gaussian estimator always does: its bias falls with their number.
            (default: :obj:`512`)
        decoder (str, optional): The loss of the unique decoders. :obj:`"bpr"`, that of the paper,
            sets the positive against one negative, and can certify at most :math:`\ln 2` nats of
            :math:`I(Z_m; Y)`. :obj:`"nce"` sets it against :math:`K` negatives that all rows share
            (:func:`~mrdib_pyg.ops.sampled_softmax_loss`), and can certify :math:`\ln(K + 1)`.
            (default: :obj:`"bpr"`)
        num_negatives (int, optional): The number :math:`K` of negatives of :obj:`"nce"`. Each
            modality draws its own from those of the batch that have it, without replacement; a
            batch with fewer yields all of them. (default: :obj:`128`)

    Raises:
        TypeError: If :obj:`channels` is not a dictionary, or :obj:`redundancy` an estimator rather
            than a callable that makes one.
        ValueError: If a setting is unknown or missing, or a width is not positive.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        redundancy: str | Callable[..., nn.Module] | None = 'mine',
        bottleneck: str = 'late',
        fused_channels: int | None = None,
        hidden_channels: int = 64,
        user_codes: bool = True,
        num_critic_rows: int | None = 512,
        decoder: str = 'bpr',
        num_negatives: int = 128,
    ) -> None:
        super().__init__()
        if not isinstance(channels, Mapping):
            raise TypeError(
                f"'channels' must map the name of each modality to its width (got {channels!r})"
            )
        if len(channels) == 0:
            raise ValueError("'channels' is empty; name at least one modality, e.g. {'image': 64}")
        if bottleneck not in ('late', 'early', 'complete'):
            raise ValueError(
                f"'bottleneck' must be 'late', 'early' or 'complete' (got '{bottleneck}')"
            )
        if bottleneck != 'late' and fused_channels is None:
            raise ValueError(
                f"bottleneck='{bottleneck}' encodes the fusion: set 'fused_channels' to its width"
            )
        if isinstance(redundancy, str) and redundancy not in ESTIMATORS:
            raise ValueError(
                f"'redundancy' must be one of {sorted(ESTIMATORS)}, a callable or None "
                f"(got '{redundancy}')"
            )
        if isinstance(redundancy, nn.Module):
            raise TypeError(
                f"'redundancy' must be a callable that makes an estimator (got {redundancy!r})"
            )
        for name, width in [*channels.items(), ('fused', fused_channels)]:
            if width is not None and width < 1:
                raise ValueError(f"the width of '{name}' must be positive (got {width})")
            if '.' in name:
                raise ValueError(f"the name of a modality must have no dot (got '{name}')")
        if num_critic_rows is not None and num_critic_rows < 2:
            raise ValueError(
                f"'num_critic_rows' must be None or at least 2 (got {num_critic_rows})"
            )
        check_loss('decoder', decoder, ('bpr', 'nce'), num_negatives)
        self.channels = dict(channels)
        self.redundancy, self.bottleneck = redundancy, bottleneck
        self.fused_channels, self.hidden_channels = fused_channels, hidden_channels
        self.user_codes, self.num_critic_rows = user_codes, num_critic_rows
        self.decoder, self.num_negatives = decoder, num_negatives

        late = self.channels if bottleneck != 'early' else {}
        self.bottlenecks = nn.ModuleDict(
            {module_key(name): VariationalBottleneck(width) for name, width in late.items()}
        )
        self.fused_bottleneck: VariationalBottleneck | None = None
        if bottleneck in ('early', 'complete'):
            assert fused_channels is not None  # checked above
            self.fused_bottleneck = VariationalBottleneck(fused_channels)

        self.critics = nn.ModuleDict()
        if redundancy is not None:
            make = ESTIMATORS[redundancy] if isinstance(redundancy, str) else redundancy
            for side in ('user', 'item') if user_codes else ('item',):
                for i, j in combinations(range(len(self.channels)), 2):
                    widths = list(self.channels.values())
                    critic = make(widths[i], widths[j], hidden_channels)
                    # One that is the layer's own, which the layer resets and trains.
                    self.critics[f'{side}_{i}_{j}'] = copy.deepcopy(critic)

    @property
    def config(self) -> dict[str, Any]:
        r"""The settings as keyword arguments, so that ``MRdIB(**config)`` builds the layer anew."""
        names = list(inspect.signature(MRdIB).parameters)
        return {name: getattr(self, name) for name in names} | {'channels': dict(self.channels)}

    def reset_parameters(self) -> None:
        r"""Resets all learnable parameters of the module."""
        for module in [*self.bottlenecks.values(), *self.critics.values(), self.fused_bottleneck]:
            if module is not None:
                module.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Mapping[str, ModalityRows]) -> dict[str, Codes]:
        r"""Encodes every modality.

        Args:
            x (Dict[str, torch.Tensor or Tuple[torch.Tensor, torch.Tensor]]): Per modality one
                tensor ``[N, C]`` (items, or users and items in one id space) or a pair
                ``(x_user [U, C], x_item [I, C])``, in which the user may be :obj:`None`.

        Returns:
            Dict[str, Posterior or Tuple[Posterior, Posterior]]: The codes in the same form, a
            sample in training and the mean in evaluation.

        Raises:
            TypeError: If rows are no tensors of floating point numbers by modality.
            ValueError: If the modalities are not those of :obj:`channels`, a width is wrong, or
                they differ in their number of rows.
        """
        self._check_names(x)
        for name, rows in x.items():
            item = rows if isinstance(rows, Tensor) else rows[1]
            if not isinstance(item, Tensor) or not item.is_floating_point():
                raise TypeError(
                    f"the rows of '{name}' must be a tensor of a floating point type (got "
                    f'{item.dtype if isinstance(item, Tensor) else type(item).__name__})'
                )
            if item.dim() != 2 or item.size(1) != self.channels[name]:
                raise ValueError(
                    f"the rows of '{name}' must have the shape [N, {self.channels[name]}] (got "
                    f"{list(item.shape)}); set its width in 'channels'"
                )
        pairs = [(None, rows) if isinstance(rows, Tensor) else rows for rows in x.values()]
        for side in zip(*pairs):
            sizes = [rows.size(0) for rows in side if rows is not None]
            if len(set(sizes)) > 1:
                raise ValueError(
                    f'the modalities {list(x)} must have as many rows each (got {sizes})'
                )
        return {name: encode(self._bottleneck(name), rows) for name, rows in x.items()}

    def encode_fused(self, fused: ModalityRows) -> Codes:
        r"""Encodes the fused representation, for :obj:`bottleneck="early"` and :obj:`"complete"`;
        for :obj:`"late"` the code is the representation itself. Pass the result to :meth:`loss` as
        :obj:`fused`.
        """
        return encode(self.fused_bottleneck, fused)

    def loss(
        self,
        codes: Mapping[str, Codes],
        src_index: Tensor,
        dst_pos_index: Tensor,
        dst_neg_index: Tensor,
        user_embedding: Tensor | None = None,
        fused: None | Codes | ModalityRows = None,
        *,
        unimodal: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        present: Mapping[str, Mask] | None = None,
    ) -> PIDTerms:
        r"""Computes the loss terms over triplets of a user, a positive and a negative item.

        Args:
            codes (Dict[str, Posterior or Tuple[Posterior, Posterior]]): The output of
                :meth:`forward`.
            src_index (torch.Tensor): The users of the triplets as rows of the user codes (or of
                :obj:`user_embedding`, or of the one id space), ``[B]``.
            dst_pos_index (torch.Tensor): The positive items as rows of the item codes, ``[B]``.
            dst_neg_index (torch.Tensor): The negative items as rows of the item codes, ``[B]``.
            user_embedding (torch.Tensor, optional): The model's own user embedding ``[U, C]``,
                which scores where users have no code. Without it, a code of one tensor covers
                users and items in one id space. (default: :obj:`None`)
            fused (Tuple[torch.Tensor, torch.Tensor], optional): The fused users and items whose
                inner product is the model's score, or the output of :meth:`encode_fused`; yields
                :obj:`synergistic`. (default: :obj:`None`)
            unimodal (Dict[str, Tuple[torch.Tensor, torch.Tensor]], optional): Per modality the
                users and items whose inner product is the unimodal score. A modality not named
                scores by its codes. (default: :obj:`None`)
            present (Dict[str, torch.Tensor], optional): Per modality a boolean mask of the rows
                (or a pair of masks for users and items) that have it. Terms are means over these
                rows; the others must still be finite, such as zeros.
                (default: :obj:`None`, all rows)

        Returns:
            PIDTerms: Scalars in nats; nothing is remembered between calls.

        Raises:
            ValueError: If users have neither codes nor a :obj:`user_embedding`, :obj:`fused` did
                not pass the bottleneck for it, the forms of the modalities, the shapes of the
                indices or the length of a mask do not agree, or a name is not in
                :obj:`channels`.
            TypeError: If a mask is not boolean.
            IndexError: If an index lies beyond the rows of the codes.
        """
        self._check_names(codes)
        if self.fused_bottleneck is not None and not _is_encoded(fused):
            raise ValueError(
                f"'fused' must come from encode_fused() with bottleneck='{self.bottleneck}': its "
                f'rate is part of the loss'
            )
        triplet = (src_index, dst_pos_index, dst_neg_index)
        sides = make_all_sides(codes, user_embedding, present, triplet)
        scored = {} if unimodal is None else unimodal
        unknown = sorted(set(scored) - set(sides))
        if unknown:
            raise ValueError(f"'unimodal' names {unknown}, but 'codes' has {sorted(sides)}")
        zero = next(iter(sides.values())).item.mu.new_zeros(())
        rate, pairs, masks = zero, {}, {}
        for name, side in sides.items():
            rate = rate + mean_over_batch(rate_of, side, triplet)
            pairs[name] = _scored(name, side, user_embedding, scored.get(name))
            masks[name] = (side.mask_user, side.mask_item)
        fused_pair = None
        if fused is not None:
            side = make_all_sides({'fused': fused}, user_embedding, None, triplet)['fused']
            rate = rate + mean_over_batch(rate_of, side, triplet)
            fused_pair = _scored('fused', side, user_embedding, None)
        information, synergistic = None, None
        if self.decoder == 'bpr':
            decoded = pid_loss(pairs, fused_pair, *triplet, mask=masks)
            unique, synergistic = decoded.unique.sum(), decoded.synergistic
        else:
            unique, information = self._contrast(pairs, masks, triplet)
            if fused_pair is not None:
                synergistic = pid_loss([fused_pair], None, *triplet).unique.sum()
        redundant = self._redundant(sides, triplet, zero)
        return PIDTerms(rate, redundant, unique, synergistic, information)

    def _contrast(
        self,
        pairs: Mapping[str, tuple[Tensor, Tensor]],
        masks: Mapping[str, tuple[Tensor | None, Tensor | None]],
        triplet: Triplet,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        src, pos, neg = triplet
        losses, information = [], {}
        for name, (user, item) in pairs.items():
            has_user, has_item = masks[name]
            keep = None if has_user is None else has_user[src]
            may_draw = None
            if has_item is not None:
                keep = has_item[pos] if keep is None else keep & has_item[pos]
                may_draw = has_item[neg]
            drawn = draw_shared_negatives(neg, self.num_negatives, may_draw)
            loss = sampled_softmax_loss(user, item, src, pos, drawn, keep)
            # No row, no information: the loss is then zero.
            num = loss.new_full((), drawn.numel()) if may_draw is None else (drawn >= 0).sum()
            bound = num.log1p().to(loss.dtype) - loss.detach()
            information[name] = bound if keep is None else torch.where(keep.any(), bound, 0.0)
            losses.append(loss)
        return torch.stack(losses).sum(), information

    def _redundant(self, sides: dict[str, Sides], triplet: Triplet, zero: Tensor) -> Tensor:
        if len(self.critics) == 0:
            return zero
        src, pos, neg = triplet
        is_shared = next(iter(sides.values())).is_shared
        items = torch.cat([src, pos, neg] if is_shared else [pos, neg])
        values: list[Tensor] = []
        for i, j in combinations(range(len(self.channels)), 2):
            first, second = (sides[list(self.channels)[k]] for k in (i, j))
            codes, masks = (first.item, second.item), (first.mask_item, second.mask_item)
            pair = [self._estimate(f'item_{i}_{j}', codes, masks, items)]
            if first.user and second.user and self.user_codes and not is_shared:
                codes, masks = (first.user, second.user), (first.mask_user, second.mask_user)
                pair.append(self._estimate(f'user_{i}_{j}', codes, masks, src))
            values.append(torch.stack(pair).mean())
        # Each code stands in M - 1 pairs: its share of the term is the same for any M.
        return torch.stack(values).sum() / (len(self.channels) - 1)

    def _estimate(
        self,
        name: str,
        codes: tuple[Posterior, Posterior],
        masks: Sequence[Tensor | None],
        index: Tensor,
    ) -> Tensor:
        critic = self.critics[name]
        samples = self.training and getattr(critic, 'subsample', True)
        limit = self.num_critic_rows if samples else None
        rows = critic_rows(index, codes[0].z.size(0), masks, limit)
        z1, z2 = (code.z.index_select(0, rows) for code in codes)
        return critic.penalty(z1, z2)  # type: ignore[operator]

    def drop_user_critics(self) -> None:
        r"""Removes the critics between user codes, for a model whose users have none."""
        for name in [name for name in self.critics if name.startswith('user_')]:
            del self.critics[name]
        self.user_codes = False

    def _check_names(self, given: Mapping[str, Any]) -> None:
        names = sorted(self.channels)
        if not isinstance(given, Mapping):
            raise TypeError(
                f'the input must be a dictionary over the modalities {names} (got '
                f'{type(given).__name__})'
            )
        if set(given) != set(names):
            raise ValueError(
                f"the modalities must be those of 'channels', {names} (got {sorted(given)})"
            )

    def _bottleneck(self, name: str) -> nn.Module | None:
        return self.bottlenecks[module_key(name)] if self.bottleneck != 'early' else None

    def __repr__(self) -> str:
        decoder = ''
        if self.decoder != 'bpr':
            decoder = f', decoder={self.decoder!r}, num_negatives={self.num_negatives}'
        return (
            f'{self.__class__.__name__}({self.channels}, redundancy={self.redundancy!r}, '
            f'bottleneck={self.bottleneck!r}{decoder})'
        )


def _is_encoded(fused: None | Codes | ModalityRows) -> bool:
    parts = [fused] if isinstance(fused, (Posterior, Tensor)) else list(fused or [])
    found = [part for part in parts if part is not None]
    return len(found) > 0 and all(
        isinstance(part, Posterior) and part.logstd is not None for part in found
    )


def _scored(
    name: str, side: Sides, user_embedding: Tensor | None, unimodal: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    # The users and items whose inner product is the score.
    user = user_embedding if side.user is None else side.user.z
    item = side.item.z
    if unimodal is not None:
        user, item = unimodal
    assert user is not None  # checked by `make_sides`
    if user.size(-1) != item.size(-1):
        raise ValueError(
            f"users of width {user.size(-1)} cannot be scored with items of '{name}' of width "
            f"{item.size(-1)} by an inner product; pass a 'user_embedding', or pairs as "
            f"'unimodal', of one width"
        )
    dtype = torch.promote_types(user.dtype, item.dtype)  # they differ under autocast
    return user.to(dtype), item.to(dtype)
