"""Google Cloud Storage on loopback, in a process of its own and in memory.

Of its JSON API there is what gcsfs, TensorStore and Google's client ask for. Every bucket exists. A test
module has the fixture by `pytest_plugins = "tests.object_store"`.
"""

import base64
import itertools
import json
import re
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

ENVIRONMENT = {
    "FSSPEC_GCS_TOKEN": "anon",  # gcsfs looks for no credentials
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # nor asks by gRPC what kind of bucket it is
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # TensorStore looks for no credentials either
    "NO_GCE_CHECK": "true",  # nobody asks whether this machine is Google's
}


@pytest.fixture(scope="session")
def object_server():
    """Its address; one server for all tests of a process, as TensorStore reads but once where it is."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()  # so it ends


@pytest.fixture
def object_store(object_server, monkeypatch):
    """An empty bucket, gs://NAME, for this process and those it starts."""
    import fsspec
    from etils.epath.backend import fsspec_backend
    from gcsfs.core import GCSFileSystem

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", object_server)
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", object_server)
    # Here fsspec has read its environment, and other tests may have put another gs:// in place.
    for name in ("gcs", "gs"):
        monkeypatch.setitem(fsspec.config.conf, name, fsspec.config.conf.get(name, {}) | {"token": "anon"})
        fsspec.register_implementation(name, GCSFileSystem, clobber=True)
    fsspec_backend._get_filesystem.cache_clear()
    yield f"gs://bucket-{uuid.uuid4().hex[:8]}"
    fsspec_backend._get_filesystem.cache_clear()


class Refused(Exception):
    """An answer other than success: its status."""


class Store:
    """Objects, as (resource, bytes) by (bucket, name), and uploads under way."""

    def __init__(self):
        self.objects, self.uploads, self.lock = {}, {}, threading.Lock()
        self.generations = itertools.count(time.time_ns())

    def read(self, key, query):
        if key not in self.objects:
            raise Refused(404)
        self.check(key, query, same=304)
        return self.objects[key]

    def check(self, key, query, same=412):
        """Refuses unless the object is of the generation asked for: 0 if there is to be none."""
        generation = self.objects[key][0]["generation"] if key in self.objects else "0"
        if query.get("ifGenerationMatch", generation) != generation:
            raise Refused(412)
        if query.get("ifGenerationNotMatch") == generation:
            raise Refused(same)

    def write(self, key, data, query):
        import google_crc32c  # gcsfs brings it

        self.check(key, query)
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        resource = {"kind": "storage#object", "bucket": key[0], "name": key[1], "size": str(len(data))}
        resource |= {"generation": str(next(self.generations)), "metageneration": "1"}
        resource |= {"contentType": "application/octet-stream", "timeCreated": now, "updated": now}
        resource["crc32c"] = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
        self.objects[key] = resource, data
        return resource

    def list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        first, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        found = {}  # resources by name, and None by prefix
        for (where, name), (resource, _) in sorted(self.objects.items()):
            if where == bucket and name.startswith(prefix) and first <= name < end:
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                found |= {name: resource} if cut < 0 else {name[: cut + 1]: None}
        names = [name for name in found if name > query.get("pageToken", "")]
        page = names[: int(query.get("maxResults", 1000))]
        answer = {"kind": "storage#objects", "items": [found[name] for name in page if found[name]]}
        answer["prefixes"] = [name for name in page if not found[name]]
        return answer | ({"nextPageToken": page[-1]} if len(page) < len(names) else {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer takes 40 ms
    store = Store()
    address = re.compile(r"(/upload|/download)?/storage/v1/b/([^/]+)(/o)?(?:/([^/]+))?(?:/(moveTo|rewriteTo)(/.+))?")

    def answer(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = self.address.fullmatch(url.path)
        try:
            if not found:
                raise Refused(400)
            with self.store.lock:
                self.send(*self.act(query, body, *(part and unquote(part) for part in found.groups())))
        except Refused as e:
            status = e.args[0]
            self.send(status, {"error": {"code": status, "message": f"{self.command} {self.path}"}})

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def act(self, query, body, service, bucket, listed, name, verb, target):
        """The status, what to send and headers."""
        store, key = self.store, (bucket, name)
        if service == "/upload":
            return self.upload(bucket, query, body)
        if verb:
            to = re.fullmatch(r"(?:/b/([^/]+))?/o/(.+)", target).groups(bucket)
            resource = store.write(to, store.read(key, {})[1], query)
            if verb == "rewriteTo":
                return 200, {"kind": "storage#rewriteResponse", "done": True, "resource": resource}
            store.objects.pop(key)
            return 200, resource
        if self.command == "DELETE" and name:
            store.read(key, query)
            store.objects.pop(key)
            return 204, b""
        if self.command != "GET":
            raise Refused(400)
        if name:
            resource, data = store.read(key, query)
            return self.part(resource, data) if query.get("alt") == "media" else (200, resource)
        return 200, store.list(bucket, query) if listed else {"kind": "storage#bucket", "name": bucket}

    def part(self, resource, data):
        """Of an object's bytes those that are asked for."""
        headers = {"x-goog-generation": resource["generation"]}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, data, headers
        first, last = asked.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            raise Refused(416)
        return 206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}

    def upload(self, bucket, query, body):
        """An object at once, by itself or after its description, or in pieces."""
        store, name = self.store, query.get("name")
        if "upload_id" in query:
            key, conditions, received = store.uploads[query["upload_id"]]
            if self.command == "DELETE":
                raise Refused(499)
            received += body
            if self.headers["Content-Range"].endswith(f"/{len(received)}"):
                return 200, store.write(key, bytes(received), conditions)
            return 308, b"", {"Range": f"bytes=0-{len(received) - 1}"} if received else {}
        if query["uploadType"] == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1]
            _, *parts, _ = body.split(f"--{boundary}".encode(), 3)
            line = b"\r\n" if parts[0].startswith(b"\r\n") else b"\n"
            described, body = (part.split(2 * line, 1)[1].removesuffix(line) for part in parts)
            name = name or json.loads(described)["name"]
        if query["uploadType"] == "resumable":
            key, number = (bucket, name or json.loads(body)["name"]), str(len(store.uploads))
            store.check(key, query)
            store.uploads[number] = key, query, bytearray()
            location = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o?upload_id={number}"
            return 200, b"", {"Location": location}
        return 200, store.write((bucket, name), body, query)

    def send(self, status, content, headers=None):
        if not isinstance(content, bytes):
            content = b"" if status == 304 else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # gcsfs asks twice and hangs up on the later answer
            super().handle_error(request, client_address)


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()  # until the process that started it closes the pipe, or is gone
