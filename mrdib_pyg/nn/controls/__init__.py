from mrdib_pyg.nn.controls.code_noise import CodeNoise
from mrdib_pyg.nn.controls.code_penalty import CodePenalty

__all__ = ['CodeNoise', 'CodePenalty']
