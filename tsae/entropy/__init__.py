"""Entropy coding of integer latents: one stream per image, probabilities from integers alone. Needs no torch.

`prior.py` owns what a model file stores for it; `kernels.py` the arithmetic, which `docs/FORMAT.md` defines, on top of
`vectors.py`, which has its vector instructions; `coder.py` maps whole batches. How latents come from images is not known here.
"""

from tsae.entropy.coder import EntropyCoder as EntropyCoder
from tsae.entropy.kernels import GRID as GRID
from tsae.entropy.kernels import LATENT_LIMIT as LATENT_LIMIT
from tsae.entropy.prior import Prior as Prior
