"""Keeps brands and versions of their adapters in an object store, and refuses a bad one with a reason.

Knows nothing about GPUs or where an adapter is painted with; that is the router's.

errors         what it refuses, and why
messages       what is asked of it and what it answers, beyond looksmith.nouns
object_store   what a store must do, and one in memory
conformance    whether a store does it, found out by trying
gate           no write before that is known
minio_store    one behind the S3 API
layout         where everything lies in the store
commit_log     numbered records, created only if absent: the one way to change anything
records        what such a record holds
adapter_state  the rules of versions and aliases, as pure functions
shelf          this replica's memory of the newest records
blobs          files in the store, whole or in parts
intake         a file comes in: judged, cut into parts, stored
uploads        those that break off, and where they go on
tables         which bases adapters can be published for
judging        who decides about a file
publisher      from an upload to a version
catalog        everything else about adapters
brands         records of brands
paging         page tokens
status         how the store does at this moment
core           all of the above, put together
content        a file to be published, in pieces
convert        protobuf, at the edge
servicer       the gRPC edge
client         the registry as other services see it
fake_client    one in memory, for their tests
seaweedfs      a store for laptops and tests
"""
