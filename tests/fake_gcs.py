"""A Google Cloud Storage of one folder: what TensorStore and gcsfs ask of its JSON API, over HTTP."""

import contextlib
import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator


def described(bucket: pathlib.Path, name: str) -> dict[str, str]:
  """An object's resource."""
  size, moment = (bucket / name).stat().st_size, '2024-01-01T00:00:00.000Z'
  times = {'timeCreated': moment, 'updated': moment}
  return {'name': name, 'bucket': bucket.name, 'size': str(size), 'generation': '1', **times}


def write(bucket: pathlib.Path, name: str, content: bytes) -> None:
  """Objects appear whole."""
  path = bucket / name
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(f'.{path.name}.{threading.get_ident()}')
  beside.write_bytes(content)
  beside.replace(path)


def multipart(kind: str, body: bytes) -> tuple[bytes, bytes]:
  """What an object is called, and what it holds."""
  mark = b'--' + kind.partition('boundary=')[2].strip('"\'').encode()
  first, second = body.split(mark)[1:3]
  inside = lambda part: part.split(b'\r\n\r\n' if b'\r\n\r\n' in part else b'\n\n', 1)[1]
  strip = lambda part: part.removesuffix(b'\r\n').removesuffix(b'\n')
  return strip(inside(first)), strip(inside(second))


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """(URL, the names of objects that were read); buckets are the folder's subfolders."""
  read: list[str] = []

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
      pass

    def answer(self, status: int, body: bytes = b'', **headers: str) -> None:
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name.replace('_', '-'), value)
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      self.wfile.write(body)

    def parts(self) -> tuple[pathlib.Path, str | None, dict[str, str]]:
      url = urllib.parse.urlsplit(self.path)
      words = url.path.removeprefix('/upload').partition('/b/')[2].split('/', 2)
      query = {key: value[0] for key, value in urllib.parse.parse_qs(url.query).items()}
      name = urllib.parse.unquote(words[2]) if len(words) > 2 else None
      return folder / words[0], name, query

    def do_GET(self) -> None:
      bucket, name, query = self.parts()
      if name is None:
        first, last = query.get('startOffset', ''), query.get('endOffset', chr(0x10FFFF))
        prefix = query.get('prefix', '')
        files = sorted(path for path in bucket.rglob('*') if path.is_file())
        names = [path.relative_to(bucket).as_posix() for path in files]
        names = [name for name in names if name.startswith(prefix) and first <= name < last]
        found: dict[str, list] = {'items': [], 'prefixes': []}
        for name in names:
          inside, between, _ = name[len(prefix) :].partition(query.get('delimiter', chr(0)))
          if between:
            found['prefixes'].append(prefix + inside + between)
          else:
            found['items'].append(described(bucket, name))
        found['prefixes'] = sorted(set(found['prefixes']))
        self.tell({key: value for key, value in found.items() if value})
        return
      path = bucket / name
      if not path.is_file():
        self.answer(404, b'{}')
        return
      if query.get('alt') != 'media':
        self.tell(described(bucket, name))
        return
      read.append(name)
      body, marks = path.read_bytes(), {'x_goog_generation': '1'}
      asked = self.headers.get('Range')
      if asked:
        first, last = asked.removeprefix('bytes=').split('-')
        start, stop = int(first), min(int(last or len(body)), len(body) - 1)
        marks['Content_Range'] = f'bytes {start}-{stop}/{len(body)}'
        self.answer(206, body[start : stop + 1], **marks)
      else:
        self.answer(200, body, **marks)

    def do_POST(self) -> None:
      bucket, name, query = self.parts()
      body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
      if not bucket.is_dir():
        self.answer(404, b'{}')
        return
      if name is not None and '/rewriteTo/b/' in name:
        source, _, target = name.partition('/rewriteTo/b/')
        words = target.split('/o/', 1)
        write(folder / words[0], words[1], (bucket / source).read_bytes())
        self.tell({'done': True, 'resource': described(folder / words[0], words[1])})
        return
      if 'Content-Range' in self.headers:  # the whole object in one part, as gcsfs sends small ones
        assert self.headers['Content-Range'].endswith(f'-{len(body) - 1}/{len(body)}')
        write(bucket, name, body)
        self.tell(described(bucket, name))
        return
      if query.get('uploadType') == 'resumable':
        name = json.loads(body).get('name', query.get('name')) if body else query['name']
        place = urllib.parse.quote(name, safe='')
        self.answer(200, Location=f'{url}/upload/storage/v1/b/{bucket.name}/o/{place}')
        return
      if query.get('uploadType') == 'multipart':
        about, body = multipart(self.headers['Content-Type'], body)
        query |= json.loads(about)
      write(bucket, query['name'], body)
      self.tell(described(bucket, query['name']))

    def do_DELETE(self) -> None:
      bucket, name, _ = self.parts()
      there = (bucket / name).is_file()  # folders are no objects
      if there:
        (bucket / name).unlink()
      self.answer(204 if there else 404)

    def tell(self, value: dict) -> None:
      self.answer(200, json.dumps(value).encode(), Content_Type='application/json')

  class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):  # a client that closes its connection early
      pass

  server = Server(('127.0.0.1', 0), Handler)
  url = f'http://127.0.0.1:{server.server_port}'
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield url, read
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
