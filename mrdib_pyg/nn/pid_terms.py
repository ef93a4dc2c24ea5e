from typing import NamedTuple

from torch import Tensor


class PIDTerms(NamedTuple):
    r"""The unweighted loss terms of MRdIB (`arXiv:2509.20225 <https://arxiv.org/abs/2509.20225>`_),
    scalars in nats.

    Args:
        bottleneck (torch.Tensor): The rate :math:`\sum_m \mathrm{KL}(q(z_m|x_m) \,\|\,
            \mathcal{N}(0, I))`, a mean over the rows of the batch.
        redundant (torch.Tensor): The estimate of :math:`I(Z_1; Z_2)`, a mean over pairs of
            modalities.
        unique (torch.Tensor): The loss of the decoders that see one modality each,
            :math:`-\sum_m \mathbb{E} \log p(y|z_m)`.
        synergistic (torch.Tensor, optional): The loss of the decoder that sees the fusion,
            :math:`-\mathbb{E} \log p(y|z_1, \ldots, z_M)`, where a fused representation was given.
    """

    bottleneck: Tensor
    redundant: Tensor
    unique: Tensor
    synergistic: Tensor | None = None

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
