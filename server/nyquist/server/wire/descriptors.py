"""The pool that the stubs are described in: of our own, so that others may have theirs.

A process has one default pool, and two packages that describe `inference.ServerLiveRequest` in it
end each other's import: tritonclient's stubs and ours would.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
