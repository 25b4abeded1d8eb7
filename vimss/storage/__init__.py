"""Storage: files that are complete or do not exist, folders on disks and behind URLs, the store's layout.

files    atomic writes, and the operating system's errors in words
replace  a folder in place of another one
folders  the same methods for a folder here and one behind a URL
mirror   a folder here as a copy of one behind a URL
store    the layout of the store
"""

from vimss.storage.files import (
    NAME_BYTES,
    atomic_write,
    copy_folder,
    explain_os_errors,
    free_bytes,
    private_folder,
    put,
    remove_leftovers,
    remove_whole,
    sha256,
    temporary_beside,
)
from vimss.storage.folders import Folder, LocalFolder, RemoteFolder, folder_at
from vimss.storage.mirror import Mirror, fetch_missing, followed_by, outlast, repeated
from vimss.storage.replace import TEMPORARY, finish_replacement, finish_replacements, sync
from vimss.storage.store import Store, kept_beside, origin_of

__all__ = [
    "NAME_BYTES",
    "TEMPORARY",
    "Folder",
    "LocalFolder",
    "Mirror",
    "RemoteFolder",
    "Store",
    "atomic_write",
    "copy_folder",
    "explain_os_errors",
    "fetch_missing",
    "finish_replacement",
    "finish_replacements",
    "folder_at",
    "followed_by",
    "free_bytes",
    "kept_beside",
    "origin_of",
    "outlast",
    "private_folder",
    "put",
    "remove_leftovers",
    "remove_whole",
    "repeated",
    "sha256",
    "sync",
    "temporary_beside",
]
