"""What the bucket in memory answers: a part of the JSON API of Cloud Storage.

It is what TensorStore, gcsfs and google-cloud-storage ask when a run's folder
is gs://bucket/run, and nothing else: another request is answered with 501 and
kept in the server's `unknown`, for tests to look at.

    https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

from http import server
import json
import re
from urllib import parse


class Refusal(Exception):
  """An answer other than success: status and message."""


class Handler(server.BaseHTTPRequestHandler):
  """One connection; `service` is the `fake_bucket.Server` it belongs to."""

  protocol_version = 'HTTP/1.1'  # Connections stay open.
  disable_nagle_algorithm = True

  def handle(self):
    try:
      super().handle()
    except ConnectionError:
      pass  # Who asked has gone: killed, or content with another answer.

  def log_message(self, *_):
    pass

  def _serve(self):
    url = parse.urlsplit(self.path)
    self.query = dict(parse.parse_qsl(url.query, keep_blank_values=True))
    self.body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    try:
      for kind, method, pattern in _ROUTES:
        # Names are quoted: a slash in the address is none of a name.
        match = re.fullmatch(pattern, url.path)
        if match and self.command in method:
          self.service.requests[kind] += 1
          bucket, *names = [parse.unquote(part) for part in match.groups()]
          self._admit(bucket)
          with self.service.lock:
            answer = getattr(self, '_' + kind)(*names)
          break
      else:
        self.service.unknown.append(f'{self.command} {self.path}')
        raise Refusal(501, 'the fake bucket does not know this request')
    except Refusal as e:
      status, message = e.args
      answer = dict(error=dict(code=status, message=message)), status
    self._send(*answer)

  do_GET = do_POST = do_PUT = do_DELETE = _serve

  def _admit(self, bucket):
    if self.service.failing:
      raise Refusal(503, 'We encountered an internal error. Please try again.')
    if self.service.refused:
      raise Refusal(*self.service.refused)
    if bucket != self.service.name:
      raise Refusal(404, 'The specified bucket does not exist.')

  def _send(self, content, status=200, headers=None):
    if not isinstance(content, bytes):
      content = json.dumps(content).encode() if status != 304 else b''
      headers = {'Content-Type': 'application/json; charset=UTF-8'}
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, str(value))
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _found(self, name):
    """The object, after the conditions of the request."""
    found = self.service.objects.get(name)
    generation = found.generation if found else 0
    wanted = self.query.get('ifGenerationMatch')
    if wanted is not None and int(wanted) != generation:
      raise Refusal(412, 'At least one of the pre-conditions did not hold.')
    other = self.query.get('ifGenerationNotMatch')
    if other is not None and int(other) == generation:
      raise Refusal(304 if self.command == 'GET' else 412, 'Not modified')
    return found

  def _existing(self, name):
    found = self._found(name)
    if found is None:
      raise Refusal(404, f'No such object: {self.service.name}/{name}')
    return found

  def _resource(self, name):
    found = self.service.objects[name]
    return found.resource(self.service.name, name)

  def _bucket(self):
    if 'storage.buckets.get' in self.service.lacking:
      raise Refusal(403, 'The caller does not have storage.buckets.get access.')
    return (dict(name=self.service.name, id=self.service.name),)

  def _permissions(self):
    asked = parse.parse_qs(parse.urlsplit(self.path).query)['permissions']
    return (dict(permissions=sorted({*asked} - self.service.lacking)),)

  def _get(self, name):
    found = self._existing(name)
    if self.query.get('alt') != 'media':
      return (self._resource(name),)
    size, data, status = len(found.data), found.data, 200
    headers = {
      'Content-Type': found.content_type,
      'X-Goog-Generation': found.generation,
    }
    asked = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
    if asked:
      first, last = asked.groups()
      begin = int(first) if first else max(0, size - int(last))
      end = min(int(last) + 1, size) if first and last else size
      if begin >= size:
        raise Refusal(416, 'The requested range cannot be satisfied.')
      data, status = data[begin:end], 206
      headers['Content-Range'] = f'bytes {begin}-{end - 1}/{size}'
    return data, status, headers

  def _list(self):
    prefix = self.query.get('prefix', '')
    delimiter = self.query.get('delimiter', '')
    begin = self.query.get('startOffset', '')
    end = self.query.get('endOffset', '')
    entries = {}  # Of names and of prefixes, in their order.
    for name in self.service.names(prefix):
      if name < begin or end and name >= end:
        continue
      head, cut, _ = name[len(prefix) :].partition(delimiter or '\0')
      entries[prefix + head + cut if cut else name] = bool(cut)
    after = self.query.get('pageToken', '')
    left = [name for name in entries if name > after]
    count = min(
      int(self.query.get('maxResults') or self.service.page), self.service.page
    )
    answer = dict(
      items=[self._resource(n) for n in left[:count] if not entries[n]],
      prefixes=[n for n in left[:count] if entries[n]],
    )
    if len(left) > count:
      answer['nextPageToken'] = left[count - 1]
    return (answer,)

  def _upload(self):
    if 'upload_id' in self.query:
      return self._part()
    form, kind = self.query['uploadType'], self.headers.get('Content-Type', '')
    if form == 'media':
      name, data = self.query['name'], self.body
    elif form == 'multipart':
      name, data, kind = self._multipart(kind)
    else:
      name = json.loads(self.body or '{}').get('name') or self.query['name']
      key, kind = (
        str(len(self.service.uploads)),
        self.headers.get('X-Upload-Content-Type', ''),
      )
      self._found(name)
      self.service.uploads[key] = (name, kind, b'')
      query = parse.urlencode(dict(uploadType=form, upload_id=key))
      where = f'{self.service.url}/upload/storage/v1/b/{self.service.name}/o'
      return b'', 200, dict(Location=f'{where}?{query}')
    self._found(name)
    self.service.put(name, data, kind)
    return (self._resource(name),)

  def _multipart(self, kind):
    """Name, data and type of a body of two parts: metadata and data."""
    boundary = parse.unquote(kind.partition('boundary=')[2]).strip('"\'')
    _, first, second, _ = self.body.split(b'--' + boundary.encode())
    metadata = json.loads(re.split(rb'\r?\n\r?\n', first, maxsplit=1)[1])
    head, data = re.split(rb'\r?\n\r?\n', second, maxsplit=1)
    kind = head.decode().partition(':')[2].strip()
    return metadata['name'], re.sub(rb'\r?\n\Z', b'', data), kind

  def _part(self):
    """A part of an upload that is sent in several."""
    name, kind, data = self.service.uploads[self.query['upload_id']]
    data += self.body
    self.service.uploads[self.query['upload_id']] = name, kind, data
    if self.headers.get('Content-Range', '/1').endswith('/*'):
      return b'', 308, dict(Range=f'bytes=0-{len(data) - 1}')
    self.service.put(name, data, kind)
    return (self._resource(name),)

  def _delete(self, name):
    self._existing(name)
    del self.service.objects[name]
    return b'', 204

  def _move(self, source, target):
    found = self._existing(source)
    del self.service.objects[source]
    self.service.put(target, found.data, found.content_type)
    return (self._resource(target),)


_BUCKET = '/storage/v1/b/([^/]+)'
_OBJECT = _BUCKET + '/o/([^/]+)'
_ROUTES = (
  ('bucket', ('GET',), _BUCKET),
  ('permissions', ('GET',), _BUCKET + '/iam/testPermissions'),
  ('list', ('GET',), _BUCKET + '/o'),
  ('get', ('GET',), '(?:/download)?' + _OBJECT),
  ('upload', ('POST', 'PUT'), '/upload' + _BUCKET + '/o'),
  ('delete', ('DELETE',), _OBJECT),
  ('move', ('POST',), _OBJECT + '/moveTo/o/([^/]+)'),
)
