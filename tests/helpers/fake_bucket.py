"""A bucket of Google Cloud Storage in this process' memory.

The fixture `bucket` gives one; `fake_bucket_api` has what it answers.
`Server()` is a context, and `environment` leads a process there.

Tests may look at and change `objects`, let the service fail or refuse for a
while, and see in `requests` what was asked. Of credentials it wants none.
"""

from __future__ import annotations

import collections
import dataclasses
from http import server
import itertools
import threading
import time

from tests.helpers import fake_bucket_api


@dataclasses.dataclass(frozen=True)
class Object:
  """What a name holds, as one write left it."""

  data: bytes
  generation: int
  content_type: str
  time: float = dataclasses.field(default_factory=time.time)

  def resource(self, bucket: str, name: str) -> dict[str, str]:
    """Metadata as the service gives them: whole numbers are strings."""
    stamp = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(self.time))
    stamp += f'.{int(self.time % 1 * 1000):03d}Z'
    return dict(
      bucket=bucket,
      name=name,
      generation=str(self.generation),
      size=str(len(self.data)),
      contentType=self.content_type,
      timeCreated=stamp,
      updated=stamp,
    )


class Server:
  """The service with one bucket.

  Attributes:
    url: where it listens.
    objects: by their names in the bucket.
    requests: how often each kind of request came, such as 'get', 'upload'.
    unknown: first lines of requests that it does not know.
    refused: (status, message) that answers every request, or None.
    lacking: permissions that the caller does not have.
    page: most entries that a list gives at once.
  """

  def __init__(self, name: str = 'bucket', page: int = 1000):
    self.name, self.page = name, page
    self.objects: dict[str, Object] = {}
    self.requests: collections.Counter[str] = collections.Counter()
    self.unknown: list[str] = []
    self.refused: tuple[int, str] | None = None
    self.lacking: set[str] = set()
    self.uploads: dict[str, tuple[str, str, bytes]] = {}
    self.lock = threading.RLock()
    # Far above what fits 32 bits, as those of the service.
    self._generations = itertools.count(1_700_000_000_000_000)
    self._fails_until = 0.0
    handler = type('Bound', (fake_bucket_api.Handler,), dict(service=self))
    self._http = _Http(('localhost', 0), handler)
    self.url = f'http://localhost:{self._http.server_address[1]}'

  @property
  def environment(self) -> dict[str, str]:
    """Variables by which libraries find this instead of the service."""
    return dict(
      STORAGE_EMULATOR_HOST=self.url,
      TENSORSTORE_GCS_HTTP_URL=self.url,
      NO_GCE_CHECK='true',
      # By gRPC gcsfs asks what kind of bucket it is; a plain one.
      GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT='false',
    )

  def __enter__(self) -> Server:
    threading.Thread(
      target=self._http.serve_forever, args=(0.02,), daemon=True
    ).start()
    return self

  def __exit__(self, *_) -> None:
    self._http.shutdown()
    self._http.server_close()

  def fail(self, seconds: float) -> None:
    """Answers 503 to all that is asked in the next seconds."""
    self._fails_until = time.monotonic() + seconds

  @property
  def failing(self) -> bool:
    return time.monotonic() < self._fails_until

  def names(self, prefix: str = '') -> list[str]:
    """Names of the objects that begin so."""
    with self.lock:
      return sorted(name for name in self.objects if name.startswith(prefix))

  def put(self, name: str, data: bytes, kind: str = '') -> Object:
    """Writes an object, which gives it a new generation."""
    with self.lock:
      kind = kind or 'application/octet-stream'
      self.objects[name] = Object(data, next(self._generations), kind)
      return self.objects[name]

  def truncate(self, name: str, size: int) -> None:
    """Cuts an object off."""
    self.put(name, self.objects[name].data[:size])


class _Http(server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 256  # Libraries open dozens of connections at once.
