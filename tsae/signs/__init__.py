"""Draws sign-like photographs, so that examples and tests need no data set.

Owns the faces of the signs, the scenes behind them and the faults of the camera; the same seed gives the same pixels.
Does not own reading or resizing of image files, and says nothing about any real country's catalogue of signs.
"""

from tsae.signs.faces import LABELS as LABELS
from tsae.signs.scenes import DrawnSign as DrawnSign
from tsae.signs.scenes import draw_sign as draw_sign
from tsae.signs.scenes import draw_signs as draw_signs
from tsae.signs.scenes import write_signs as write_signs
