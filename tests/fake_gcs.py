"""A Google Cloud Storage of one folder: what TensorStore asks of its JSON API, over HTTP."""

import contextlib
import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator


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
      words = url.path.removeprefix('/upload').removeprefix('/storage/v1/b/').split('/', 2)
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
        items = [{'name': name, 'size': '1'} for name in names]
        self.answer(200, json.dumps({'items': items}).encode(), Content_Type='application/json')
        return
      path = bucket / name
      if not path.is_file():
        self.answer(404, b'{}')
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
      bucket, _, query = self.parts()
      path = bucket / query['name']
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(self.rfile.read(int(self.headers['Content-Length'])))
      self.answer(200, json.dumps({'name': query['name'], 'generation': '1'}).encode())

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  try:
    yield f'http://127.0.0.1:{server.server_port}', read
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
