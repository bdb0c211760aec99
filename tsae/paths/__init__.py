"""One way to reach files, local or remote (`s3://`, `gs://`, `memory://` ...), through fsspec. Owns no format.

A string with `scheme://` is a URL, `file://` excepted; anything else is a local path, taken literally.

What reads, writes or lists here raises `OSError` for whatever a driver raises, and sees the store, not a cached listing.
"""

from tsae.paths.disk import TEMPORARY as TEMPORARY
from tsae.paths.disk import local_facts as local_facts
from tsae.paths.disk import replace_file as replace_file
from tsae.paths.facts import ConflictError as ConflictError
from tsae.paths.facts import FileFacts as FileFacts
from tsae.paths.facts import as_os_error as as_os_error
from tsae.paths.folder import Folder as Folder
from tsae.paths.folder import filesystem as filesystem
from tsae.paths.folder import find_remote as find_remote
from tsae.paths.folder import kind as kind
from tsae.paths.folder import read_file as read_file
from tsae.paths.folder import read_file_with_facts as read_file_with_facts
from tsae.paths.folder import stat_file as stat_file
from tsae.paths.holds import Hold as Hold
from tsae.paths.names import absolute as absolute
from tsae.paths.names import below as below
from tsae.paths.names import is_url as is_url
from tsae.paths.names import is_within as is_within
from tsae.paths.names import join as join
from tsae.paths.names import parent as parent
from tsae.paths.names import relative as relative
from tsae.paths.opened import OpenFile as OpenFile
from tsae.paths.opened import open_file as open_file
from tsae.paths.store import remote_facts as remote_facts
from tsae.paths.writing import written_file as written_file
