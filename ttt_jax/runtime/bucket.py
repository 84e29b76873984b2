"""Checks the access to a gs:// bucket before any long work starts.

The libraries report a missing permission only where they need it, minutes
after the start and as a traceback: Orbax, for example, when it deletes its
first checkpoint.
"""

from __future__ import annotations

import os

from ttt_jax.runtime import extras
from ttt_jax.runtime import files

_TIMEOUT = 30.0  # Seconds of retries while the service does not answer.
_PERMISSIONS = (
  'storage.buckets.get',  # Orbax looks up the kind of the bucket.
  'storage.objects.get',
  'storage.objects.list',
  'storage.objects.create',
  'storage.objects.delete',
)
# Packages whose errors reach us after their own retries. Not all of `google`:
# an error of protobuf is not one of the network.
_LIBRARIES = (
  'gcsfs.',
  'aiohttp.',
  'google.api_core.',
  'google.auth.',
  'google.cloud.',
  'requests.',
)


class UnreachableError(Exception):
  """The service does not answer or fails; it may work later."""


def check(path: str | os.PathLike[str], write: bool = False) -> None:
  """Checks that the bucket of a gs:// path can be used; ignores other paths.

  Args:
    path: Path of a file or folder; only its bucket is checked.
    write: Whether to require the permissions to write and delete, too.

  Raises:
    ValueError: the bucket does not exist, or permissions, credentials or
      packages are missing.
    UnreachableError: the service does not answer or fails.
  """
  scheme, separator, rest = os.fspath(path).partition('://')
  if scheme + separator != 'gs://':  # A folder may be called gs.
    return
  # Orbax and epath need gcsfs, which brings google.cloud.storage along.
  extras.require('gcsfs', 'gcs', os.fspath(path))
  from google.api_core import exceptions
  from google.auth import exceptions as auth
  from google.cloud import storage
  from google.cloud.storage import retry

  name = rest.partition('/')[0]
  options = dict(
    timeout=_TIMEOUT, retry=retry.DEFAULT_RETRY.with_timeout(_TIMEOUT)
  )
  try:
    try:
      client = storage.Client()
    except auth.DefaultCredentialsError:
      if write:
        raise
      client = storage.Client.create_anonymous_client()
    bucket = client.bucket(name)
    if not write:
      list(bucket.list_blobs(max_results=1, **options))
      return
    granted = bucket.test_iam_permissions(_PERMISSIONS, **options)
    if missing := [p for p in _PERMISSIONS if p not in granted]:
      raise ValueError(
        f'{path} cannot be written: this account lacks {", ".join(missing)};'
        ' give it the roles Storage Object Admin and Storage Legacy Bucket'
        f' Reader on gs://{name}'
      )
  except exceptions.NotFound as e:
    raise ValueError(
      f'{path}: the bucket gs://{name} does not exist; create it with gcloud'
      f' storage buckets create gs://{name} --location=REGION'
    ) from e
  except (exceptions.Forbidden, exceptions.Unauthorized) as e:
    raise ValueError(
      f'{path} cannot be read: {_reason(e)}; log in with gcloud auth'
      ' application-default login as an account with access, or give this one'
      f' the role Storage Object Viewer on gs://{name}'
    ) from e
  except auth.DefaultCredentialsError as e:
    raise ValueError(
      f'{path} needs credentials, and none were found: run gcloud auth'
      ' application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a'
      ' file of credentials'
    ) from e
  except (exceptions.GoogleAPIError, auth.GoogleAuthError, OSError) as e:
    if 'Project was not passed' in str(e):
      raise ValueError(
        f'{path}: the credentials do not name a project; set'
        ' GOOGLE_CLOUD_PROJECT to one'
      ) from e
    raise UnreachableError(f'{path} cannot be reached: {_reason(e)}') from e


def describe_disconnect(error: BaseException) -> str | None:
  """Returns one line if an error means that a bucket fails, else None."""
  if isinstance(error, UnreachableError):
    return str(error)
  if not f'{type(error).__module__}.'.startswith(_LIBRARIES):
    return None
  return (
    f'a bucket of this run does not answer ({_reason(error)}); start the run'
    ' again, everything that was saved is intact'
  )


def _reason(error: BaseException) -> str:
  """Returns the first line, without the request that the error repeats."""
  line = files.first_line(error)
  return line.partition('prettyPrint=false: ')[2] or line
