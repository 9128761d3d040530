"""Bases in an object store: pushed once, named by their bytes, copied to a node's disk. No torch, no numpy.

errors      what is refused, and what can go wrong
reference   store://bases/NAME@SHA256
manifest    which files make a base
weights     the head of a safetensors file
gathering   what of a folder belongs to a base, or why it can't be one
family      what kind of model it is
store       what is needed of an object store, and one in memory
settings    where the store is
minio_store the real one, which needs the extra `store`
several     many files at a time
push        from a disk to the store
pull        from the store to a disk, whole or not at all
shelf       what is there, and how a base leaves
"""

from looksmith.bases.errors import BaseCorrupt, BaseNotFound, BaseRefused, DiskFull, FolderTaken, StoreUnavailable
from looksmith.bases.pull import local_copy, pull
from looksmith.bases.push import Pushed, push
from looksmith.bases.reference import Reference
from looksmith.bases.settings import StoreSettings, open_store
from looksmith.bases.shelf import StoredBase, delete, stored_bases
from looksmith.bases.store import BaseStore, InMemoryBaseStore
from looksmith.nouns import Malformed

__all__ = [
    "BaseCorrupt",
    "BaseNotFound",
    "BaseRefused",
    "BaseStore",
    "DiskFull",
    "FolderTaken",
    "InMemoryBaseStore",
    "Malformed",
    "Pushed",
    "Reference",
    "StoreSettings",
    "StoreUnavailable",
    "StoredBase",
    "delete",
    "local_copy",
    "open_store",
    "pull",
    "push",
    "stored_bases",
]
