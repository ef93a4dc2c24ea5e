r"""The linear-Gaussian model of targets by several modalities, and its evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrdib_pyg.evidence.design import Block, Design, Scaler, Solution, Targets
from mrdib_pyg.evidence.likelihood import PrimalState


class Evidence:
    r"""The linear-Gaussian model of largest evidence, as :func:`evidence` returns it.

    Attributes:
        nats (float): The evidence per entry of the targets in nats, less the constant
            :math:`- \frac{1}{2} (1 + \log 2 \pi)`. Only differences between models of the same
            targets have a meaning.
        amplitudes (Dict[str, float]): The amplitude :math:`a_m` of each modality, and of each
            product under ``'<modality>*<modality>'``: the variance that it explains over that of
            the noise.
        constant (float): The amplitude :math:`c` of the constant.
        noise (float): The variance :math:`\sigma^2` of the noise.
        left_out (Dict[str, float]): Where a modality was reduced to inducing rows, the share of
            its variance that these leave out; zero elsewhere.
        num_items (int): The number of items, :math:`n`.
        num_targets (int): The number of targets, :math:`t`.
        form (str): :obj:`"primal"` or :obj:`"dual"`: which matrix was factorized.
    """

    def __init__(self, scalers: Mapping[str, Scaler], solution: Solution) -> None:
        self._scalers, self._solution = dict(scalers), solution
        design = solution.design
        *amplitudes, constant = solution.amplitudes.tolist()
        self.nats = solution.nats
        self.amplitudes = dict(zip(solution.names, amplitudes))
        self.constant = constant
        self.noise = solution.noise
        self.left_out = {name: design.left_out.get(name, 0.0) for name in solution.names}
        self.num_items, self.num_targets = design.num_items, design.num_targets
        self.form = 'primal' if isinstance(solution.state, PrimalState) else 'dual'

    def predict(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        r"""Returns the posterior mean of the targets of new items.

        .. math::
            \mathbf{y}_* = \Big( \sum_m a_m \mathbf{x}_{*m} \mathbf{X}_m^{\top} +
            c \mathbf{1}^{\top} \Big) \mathbf{K}^{-1} \mathbf{Y}

        Args:
            features (Dict[str, torch.Tensor]): Per modality the features of the items, ``[m, F]``.
                A modality that is not named is one that none of them has.
            present (Dict[str, torch.Tensor], optional): Per modality a boolean ``[m]`` that tells
                which of the items have it. (default: :obj:`None`, all)

        Returns:
            torch.Tensor: The means ``[m, t]``, in double precision.

        Raises:
            ValueError: If a modality is unknown, none is named, or a shape does not fit.
        """
        return self._solution.mean(self.encode(features, present))

    def variance(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        r"""Returns the posterior variance of the targets of new items, without the noise. It is
        the same for all targets of an item.

        Args:
            features (Dict[str, torch.Tensor]): As in :meth:`predict`.
            present (Dict[str, torch.Tensor], optional): As in :meth:`predict`.
                (default: :obj:`None`)

        Returns:
            torch.Tensor: The variances ``[m]``, in double precision.

        Raises:
            ValueError: As in :meth:`predict`.
        """
        blocks, num_rows = self._blocks(features, present)
        return self._solution.variance(self._solution.codes(blocks, num_rows), blocks)

    def encode(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        r"""Returns codes of new items whose products with :meth:`coefficients` are the posterior
        means: for many targets of which few are asked for.

        Args:
            features (Dict[str, torch.Tensor]): As in :meth:`predict`.
            present (Dict[str, torch.Tensor], optional): As in :meth:`predict`.
                (default: :obj:`None`)

        Returns:
            torch.Tensor: The codes ``[m, D + 1]`` in the primal form, ``[m, n]`` in the dual one.

        Raises:
            ValueError: As in :meth:`predict`.
        """
        return self._solution.codes(*self._blocks(features, present))

    def coefficients(self) -> Tensor:
        r"""Returns the coefficients of each target, ``[D + 1, t]`` or ``[n, t]``; see
        :meth:`encode`.
        """
        return self._solution.coefficients()

    def leave_one_out(self) -> Tensor:
        r"""Returns the evidence without each item in turn, ``[n]``, with the amplitudes as they
        are and the noise profiled out anew: what a jackknife over items takes. In closed form, by

        .. math::
            \log \det \mathbf{K}_{-i} = \log \det \mathbf{K} + \log (\mathbf{K}^{-1})_{ii}, \quad
            \mathrm{tr}(\mathbf{K}_{-i}^{-1} \mathbf{Y}_{-i} \mathbf{Y}_{-i}^{\top}) =
            \mathrm{tr}(\mathbf{K}^{-1} \mathbf{Y} \mathbf{Y}^{\top}) -
            \frac{\| (\mathbf{K}^{-1} \mathbf{Y})_i \|^2}{(\mathbf{K}^{-1})_{ii}}
        """
        return self._solution.leave_one_out()

    def _blocks(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Block], int]:
        present = present or {}
        check_names(features, present, list(self._scalers))
        num_rows = len(next(iter(features.values())))
        x = {}
        for name, scaler in self._scalers.items():
            if name in features:
                x[name] = scaler(features[name], present.get(name))
                if x[name].size(0) != num_rows:
                    raise ValueError(
                        f"'features' of '{name}' must have the {num_rows} rows of the others (got "
                        f'{x[name].size(0)})'
                    )
            else:
                x[name] = torch.zeros(num_rows, scaler.width, dtype=torch.float64)
        blocks = {}
        for name in self._solution.names:
            left, _, right = name.partition('*')
            blocks[name] = Block(x[left], x[right] if right else None)
        return blocks, num_rows

    def __repr__(self) -> str:
        amplitudes = ', '.join(f'{name}={a:.3g}' for name, a in self.amplitudes.items())
        return (
            f'{self.__class__.__name__}({self.nats:.5f} nats per entry, {amplitudes}, '
            f'constant={self.constant:.3g}, noise={self.noise:.3g})'
        )


def evidence(
    features: Mapping[str, Tensor],
    targets: Any,
    present: Mapping[str, Tensor] | None = None,
    *,
    products: Sequence[tuple[str, str]] = (),
    max_size: int = 5000,
    seed: int = 0,
) -> Evidence:
    r"""Fits a linear-Gaussian model of targets of items by their modalities, whose amplitudes are
    those of the largest marginal likelihood, or *evidence*.

    .. math::
        \mathbf{y}_i = \sum_m \mathbf{W}_m \mathbf{x}_{im} + \mathbf{b} + \mathbf{e}, \quad
        \mathbf{W}_m \sim \mathcal{N}(0, a_m \sigma^2), \quad
        \mathbf{b} \sim \mathcal{N}(0, c \sigma^2), \quad
        \mathbf{e} \sim \mathcal{N}(0, \sigma^2)

    independently over the :math:`t` columns of the targets. With
    :math:`\mathbf{K} = \mathbf{I} + \sum_m a_m \mathbf{X}_m \mathbf{X}_m^{\top} + c \mathbf{1}
    \mathbf{1}^{\top}` and the noise profiled out,
    :math:`\sigma^2 = \mathrm{tr}(\mathbf{K}^{-1} \mathbf{Y} \mathbf{Y}^{\top}) / (n t)`, the
    evidence per entry is, in nats and but for a constant,

    .. math::
        - \frac{1}{2} \log \sigma^2 - \frac{1}{2 n} \log \det \mathbf{K}

    Nothing is tuned and nothing is held out: the evidence charges a modality for what it could fit
    by chance, so one that says nothing gets the amplitude zero. How much it grows with a modality
    is what that adds to the others, in the eyes of a Gaussian observer of the targets.

    .. code-block:: python

        both = evidence({'image': image, 'text': text}, model.embed().item)
        text_only = evidence({'text': text}, model.embed().item)
        print(both.nats - text_only.nats)  # what images add to texts
        new_items = both.predict({'image': new_image, 'text': new_text})

    The columns of each modality are standardized over the items that have it, and rows are scaled
    to unit length; a row that is missing is zero. It costs
    :math:`\mathcal{O}(\min(n, D)^3)` for :math:`D` columns altogether, about fifteen times, and is
    computed on the CPU in double precision.

    Args:
        features (Dict[str, torch.Tensor]): Per modality the features of the items, ``[n, F]``.
        targets (torch.Tensor, numpy.ndarray or scipy.sparse matrix): The targets ``[n, t]``, such
            as embeddings, or the interactions of :func:`interaction_targets`; a sparse matrix is
            not made dense where it has more columns than there are items.
        present (Dict[str, torch.Tensor], optional): Per modality a boolean ``[n]`` that tells
            which of the items have it; rows of the others may hold anything.
            (default: :obj:`None`, all)
        products (Sequence[Tuple[str, str]], optional): Pairs of modalities whose products of
            features, :math:`\mathbf{x}_1 \otimes \mathbf{x}_2`, are to have an amplitude too: what
            two modalities say together only. A pair of one modality stands for its squares.
            (default: :obj:`()`)
        max_size (int, optional): The largest matrix that is factorized. With more items *and* more
            columns, the widest modalities are reduced to the directions that inducing rows, some
            of the items, span best; :attr:`Evidence.left_out` tells what share of their variance
            that leaves out. (default: :obj:`5000`)
        seed (int, optional): Seeds the choice of inducing rows. (default: :obj:`0`)

    Returns:
        Evidence: The model.

    Raises:
        ValueError: If there is no modality, shapes do not fit, a number is not finite, the targets
            are all zero, or a product names an unknown modality.
    """
    present = present or {}
    check_names(features, present, list(features))
    y = Targets(targets)
    num_items = y.shape[0]
    if num_items < 2:
        raise ValueError(f"'targets' must have at least two rows (got {num_items})")
    if max_size < 2:
        raise ValueError(f"'max_size' must be at least 2 (got {max_size})")
    scalers, x = {}, {}
    for name, value in features.items():
        if len(value) != num_items:
            raise ValueError(
                f"'features' of '{name}' must have a row for each of the {num_items} rows of "
                f"'targets' (got {len(value)})"
            )
        scalers[name] = Scaler(name, value, present.get(name))
        x[name] = scalers[name](value, present.get(name))
    blocks = {name: Block(value) for name, value in x.items()}
    for left, right in products:
        for name in (left, right):
            if name not in x:
                raise ValueError(
                    f"'products' names '{name}', which 'features' does not ({list(x)})"
                )
        blocks[f'{left}*{right}'] = Block(x[left], x[right])
    design = Design(blocks, y, max_size, seed=seed)
    return Evidence(scalers, design.fit(list(blocks)))


def check_names(
    features: Mapping[str, Any], present: Mapping[str, Any], known: Sequence[str]
) -> None:
    r"""Checks the names of modalities.

    Raises:
        ValueError: If there is none, or one is unknown.
    """
    if len(features) == 0:
        raise ValueError("'features' is empty; name at least one modality")
    for name in features:
        if name not in known:
            raise ValueError(f"'features' names '{name}', but the model was fitted on {known}")
    for name in present:
        if name not in features:
            raise ValueError(
                f"'present' names '{name}', of which there are no 'features'; leave it out"
            )
