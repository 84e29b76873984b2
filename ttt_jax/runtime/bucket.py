"""Asks a bucket whether it will do, before anything else happens to it.

Later its libraries tell the same by tracebacks, minutes after the start: a
right that Orbax lacks, it finds lacking when it deletes its first checkpoint.
"""

from __future__ import annotations

import os

_SECONDS = 30.0  # of trying again, where the service does not answer.
_READ = ('storage.objects.get', 'storage.objects.list')
# Orbax asks of what kind the bucket is: storage.buckets.get.
_WRITE = (
  'storage.buckets.get',
  *_READ,
  'storage.objects.create',
  'storage.objects.delete',
)
# Whose errors come to us after some tries of theirs.
_LIBRARIES = (
  'gcsfs',
  'aiohttp',
  'google.api_core',
  'google.auth',
  'google.cloud',
  'requests',
)


class UnreachableError(Exception):
  """The service does not answer, or fails; later it may not."""


def check(path: str | os.PathLike[str], write: bool = False) -> None:
  """Returns if a path can be used, or is none of a bucket of Google's.

  Args:
    path: of which only the bucket is looked at.
    write: whether to write and delete there, too.

  Raises:
    ValueError: no such bucket, rights or credentials that lack, or packages.
    UnreachableError: the service does not answer, or fails.
  """
  scheme, _, rest = os.fspath(path).partition('://')
  if scheme != 'gs':
    return
  try:
    import gcsfs  # Of no use here, but to all that follows.
    from google.api_core import exceptions
    from google.auth import exceptions as auth
    from google.cloud import storage
    from google.cloud.storage import retry
  except ImportError as e:
    raise ValueError(
      f'{path} needs a package that is not installed: pip install gcsfs'
    ) from e
  del gcsfs
  name = rest.partition('/')[0]
  patience = dict(
    timeout=_SECONDS, retry=retry.DEFAULT_RETRY.with_timeout(_SECONDS)
  )
  try:
    bucket = _client(storage, auth, write).bucket(name)
    if write:
      granted = bucket.test_iam_permissions(_WRITE, **patience)
      lacking = ', '.join(right for right in _WRITE if right not in granted)
      if lacking:
        raise ValueError(
          f'{path} cannot be written: this account lacks {lacking}; give it'
          ' the roles Storage Object Admin and Storage Legacy Bucket Reader'
          f' on gs://{name}'
        )
    else:
      list(bucket.list_blobs(max_results=1, **patience))
  except exceptions.NotFound as e:
    raise ValueError(
      f'{path}: there is no bucket gs://{name}; make it with gcloud storage'
      f' buckets create gs://{name} --location=REGION'
    ) from e
  except (exceptions.Forbidden, exceptions.Unauthorized) as e:
    raise ValueError(
      f'{path} cannot be read: {_line(e)}; name an account that may by'
      ' gcloud auth application-default login, or give this one the role'
      f' Storage Object Viewer on gs://{name}'
    ) from e
  except auth.DefaultCredentialsError as e:
    raise ValueError(
      f'{path} needs credentials, and there are none: run gcloud auth'
      ' application-default login, or name a file of them in'
      ' GOOGLE_APPLICATION_CREDENTIALS'
    ) from e
  except (exceptions.GoogleAPIError, auth.GoogleAuthError, OSError) as e:
    if 'Project was not passed' in str(e):
      raise ValueError(
        f'{path}: the credentials name no project; name it in'
        ' GOOGLE_CLOUD_PROJECT'
      ) from e
    raise UnreachableError(f'{path} cannot be reached: {_line(e)}') from e


def lost(error: BaseException) -> str | None:
  """One line if an error says that a bucket does not answer, else None."""
  if isinstance(error, UnreachableError):
    return str(error)
  module = type(error).__module__ + '.'
  # Not all of `google`: protobuf's errors are no network's.
  if not module.startswith(tuple(f'{name}.' for name in _LIBRARIES)):
    return None
  return (
    f'a bucket of this run does not answer ({_line(error)}); start again,'
    ' what was saved is whole'
  )


def _client(storage, auth, write):
  """That of this machine's credentials; to read, none may do as well."""
  try:
    # Orbax makes one in the same way.
    return storage.Client()
  except auth.DefaultCredentialsError:
    if write:
      raise
    return storage.Client.create_anonymous_client()


def _line(error: BaseException) -> str:
  """The first line, without the request that the error repeats."""
  text = getattr(error, 'message', None) or str(error) or type(error).__name__
  text = text.splitlines()[0]
  return text.partition('prettyPrint=false: ')[2] or text
