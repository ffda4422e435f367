"""A small hub on loopback that speaks what the official clients of both hubs ask for.

Files of one folder are served as the repository `acme/tiny`. `cut_after` ends the body of the
first GET of a weights file after so many bytes, as a broken line would.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = "acme/tiny"
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, cut_after: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.cut_after = cut_after
        self.sent_ranges: list[str] = []
        self.fetched: list[str] = []
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub(folder: Path, *, cut_after: int | None = None) -> Iterator[Hub]:
    hub = Hub(folder, cut_after)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        self.server.tokens.add(self.headers.get("Authorization", ""))
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        model = f"/api/models/{REPOSITORY}"
        if path in {model, f"{model}/revision/main", f"{model}/revision/{SHA}"}:
            self.send_json(
                {"id": REPOSITORY, "sha": SHA, "private": False, "siblings": self.siblings()}
            )
        elif path.startswith(f"{model}/tree/"):
            self.send_json(self.tree())
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self.send_file(path.split("/", 5)[5], with_body=with_body)
        elif path == f"/api/v1/models/{REPOSITORY}/repo/files":
            self.send_json(
                {"Code": 200, "Success": True, "Data": {"Files": self.modelscope_files()}}
            )
        elif path == f"/api/v1/models/{REPOSITORY}/repo":
            self.send_file(query["FilePath"][0], with_body=with_body)
        else:
            self.send_missing("RepoNotFound")

    def names(self) -> list[str]:
        return sorted(p.name for p in self.server.folder.iterdir())

    def siblings(self) -> list[dict]:
        sizes = {n: (self.server.folder / n).stat().st_size for n in self.names()}
        return [{"rfilename": name, "size": size} for name, size in sizes.items()]

    def tree(self) -> list[dict]:
        rows = []
        for name in self.names():
            content = (self.server.folder / name).read_bytes()
            row = {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            }
            rows.append(row)
        return rows

    def modelscope_files(self) -> list[dict]:
        rows = []
        for name in self.names():
            content = (self.server.folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            rows.append(
                {"Path": name, "Name": name, "Type": "blob", "Size": len(content), "Sha256": digest}
            )
        return rows

    def send_file(self, name: str, *, with_body: bool) -> None:
        path = self.server.folder / name
        if not path.is_file():
            self.send_missing("EntryNotFound")
            return
        content, status, extra = path.read_bytes(), 200, {}
        etag = hashlib.sha256(content).hexdigest()
        asked = self.headers.get("Range", "")
        if with_body:
            self.server.fetched.append(name)
        if asked.startswith("bytes=") and with_body:
            self.server.sent_ranges.append(asked)
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last), len(content) - 1) if last else len(content) - 1
            extra = {"Content-Range": f"bytes {first}-{end}/{len(content)}"}
            content, status = content[int(first) : end + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Accept-Ranges", "bytes")
        for key, value in extra.items():
            self.send_header(key, value)
        self.end_headers()
        if not with_body:
            return
        cut = self.server.cut_after
        if cut is not None and name.endswith(".safetensors") and status == 200:
            self.server.cut_after = None
            self.wfile.write(content[:cut])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content)

    def send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass
