"""What the INPUT of `compress` names: files, members of containers or lists of them become a sorted list of keys and labels.

A key is an image's path below the root, with `/`, its ending included, so for a file `root + "/" + key` is its path. A
container, that is a tar or Parquet file of images, counts as a folder: its members lie below it.
"""

from tsae.inputs.known import NOWHERE as NOWHERE
from tsae.inputs.listing import Item as Item
from tsae.inputs.listing import Listing as Listing
from tsae.inputs.listing import Rows as Rows
from tsae.inputs.listing import has_image_ending as has_image_ending
from tsae.inputs.listing import items_of as items_of
from tsae.inputs.lookout import Lookout as Lookout
from tsae.inputs.lookout import Sighting as Sighting
from tsae.inputs.reading import ContainerError as ContainerError
from tsae.inputs.reading import Read as Read
from tsae.inputs.reading import State as State
from tsae.inputs.reading import is_same as is_same
from tsae.inputs.reading import map_inputs as map_inputs
from tsae.inputs.reading import map_states as map_states
from tsae.inputs.reading import read_input as read_input
from tsae.inputs.reading import stat_input as stat_input
from tsae.inputs.sources import list_inputs as list_inputs
from tsae.inputs.tables import open_table as open_table
