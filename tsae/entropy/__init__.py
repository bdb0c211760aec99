"""Entropy coding of integer latents: one stream per image, probabilities from integers alone. Needs no torch.

`prior.py` owns what a model file stores for it; `kernels.py` the arithmetic, which `docs/FORMAT.md` defines, on top of
`vectors.py`, which has its vector instructions; `arrays.py` what these agree on; `coder.py` maps whole batches, and is
imported by those who code, as numba takes its time. How latents come from images is not known here.
"""

from tsae.entropy.arrays import GRID as GRID
from tsae.entropy.arrays import LATENT_LIMIT as LATENT_LIMIT
from tsae.entropy.prior import Prior as Prior
