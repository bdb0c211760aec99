"""The archive: its records, shards, failures and manifest. The only home of the format; `docs/FORMAT.md` is its text.

Imports no torch: an archive can be listed, searched and checked without a network.
"""

from tsae.archive.access import ArchiveFiles as ArchiveFiles
from tsae.archive.access import matches as matches
from tsae.archive.failures import Failure as Failure
from tsae.archive.failures import failures_from_bytes as failures_from_bytes
from tsae.archive.failures import failures_to_bytes as failures_to_bytes
from tsae.archive.manifest import FORMAT_VERSION as FORMAT_VERSION
from tsae.archive.manifest import JOB_FOLDER as JOB_FOLDER
from tsae.archive.manifest import MANIFEST_FILE as MANIFEST_FILE
from tsae.archive.manifest import MODEL_FILE as MODEL_FILE
from tsae.archive.manifest import FileEntry as FileEntry
from tsae.archive.manifest import Manifest as Manifest
from tsae.archive.manifest import ShardEntry as ShardEntry
from tsae.archive.manifest import commit as commit
from tsae.archive.manifest import is_leftover as is_leftover
from tsae.archive.manifest import read_manifest as read_manifest
from tsae.archive.manifest import remove_job as remove_job
from tsae.archive.manifest import write as write
from tsae.archive.manifest import write_digested as write_digested
from tsae.archive.records import Coding as Coding
from tsae.archive.records import Records as Records
from tsae.archive.records import check_key as check_key
from tsae.archive.records import concatenate as concatenate
from tsae.archive.records import key_fault as key_fault
from tsae.archive.shards import ShardReader as ShardReader
from tsae.archive.shards import shard_to_bytes as shard_to_bytes
from tsae.paths import Folder as Folder
