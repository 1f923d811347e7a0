"""A Hugging Face hub on localhost: as much of its HTTP interface as uploads and downloads need."""

import base64
import hashlib
import http.server
import json
import re
import threading


class FakeHub:
    """Repositories of models in memory; `files` is repository -> path -> content."""

    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.post(self, self.path.split("?")[0], body)

            def do_GET(self):
                hub.get(self, self.path.split("?")[0])

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def post(self, handler, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            request = json.loads(body)
            repository = f"{request.get('organization') or 'me'}/{request['name']}"
            known = repository in self.files
            self.files.setdefault(repository, {})
            self.created.append(repository)
            answer = {"url": f"{self.endpoint}/{repository}"}
            reply(handler, 409 if known else 200, json.dumps(answer))
        elif path == "/api/validate-yaml":
            reply(handler, 200, '{"errors": [], "warnings": []}')
        elif found := re.fullmatch("/api/models/(.+)/preupload/main", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            reply(handler, 200, json.dumps({"files": files}))
        elif found := re.fullmatch("/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[found[1]][line["value"]["path"]] = content
            url = f"{self.endpoint}/{found[1]}/commit/{self.commit(found[1])}"
            answer = {"commitUrl": url, "commitOid": self.commit(found[1])}
            reply(handler, 200, json.dumps(answer))
        else:
            reply(handler, 404, "")

    def get(self, handler, path: str) -> None:
        if found := re.fullmatch("/api/models/(.+?)(/revision/main)?", path):
            if found[1] in self.files:
                answer = {"id": found[1], "sha": self.commit(found[1])}
                return reply(handler, 200, json.dumps(answer))
            if tree := re.fullmatch("(.+)/tree/[0-9a-f]{40}", found[1]):
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                    for name, content in self.files[tree[1]].items()
                ]
                return reply(handler, 200, json.dumps(entries))
            return reply(handler, 404, "", {"X-Error-Code": "RepoNotFound"})
        found = re.fullmatch("/(.+?)/resolve/(?:main|[0-9a-f]{40})/(.+)", path)
        content = self.files.get(found[1], {}).get(found[2]) if found else None
        if content is None:
            return reply(handler, 404, "", {"X-Error-Code": "EntryNotFound"})
        marks = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": self.commit(found[1])}
        reply(handler, 200, content, marks)

    def commit(self, repository: str) -> str:
        return digest(repr(sorted(self.files[repository].items())).encode())


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def reply(handler, status: int, content: str | bytes, headers: dict | None = None) -> None:
    content = content.encode() if isinstance(content, str) else content
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)
