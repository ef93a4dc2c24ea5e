from mrdib_pyg.nn.conv.modality_conv import ModalityConv

__all__ = ['ModalityConv']
