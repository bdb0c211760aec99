"""Archives as torch data sets: what models train on.

* `LatentDataset`: map style, any image at any time; `LatentStream`: iterable, row groups in their order
* `LatentLoader`: a DataLoader of a `LatentDataset` that shuffles, splits and resumes; `BatchOrder`: its order alone
* `Batch`, `Item`, `collate`: what comes out, as whole arrays; never an object an image

Training images, which models of tsae's own are made of, are `tsae.training`'s matter.
"""

from tsae.data.dataset import Batch as Batch
from tsae.data.dataset import Item as Item
from tsae.data.dataset import LatentDataset as LatentDataset
from tsae.data.dataset import collate as collate
from tsae.data.loader import LatentLoader as LatentLoader
from tsae.data.loader import LatentStream as LatentStream
from tsae.data.order import BatchOrder as BatchOrder
