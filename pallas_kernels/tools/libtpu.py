"""Facts about libtpu, which compiles for TPUs on machines that have none."""

from __future__ import annotations

# Variables that libtpu reads when it loads. They keep it from querying a
# metadata server, from locking out other processes, and from failing on a host
# without TPUs.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}
# The smallest slice of each generation that has four chips, by libtpu's name.
SMALLEST_SLICES = {
  'v5e': 'v5e:2x2',
  'v5p': 'v5p:2x2x1',
  'v6e': 'v6e:2x2',
  'tpu7x': 'tpu7x:2x2x1',
}
