"""A program that runs one task on one served model: `python -m training.benchmarks.program`.

It reads one JSON object, a line of stdin, and prints a JSON object a line: {"done", "total"} on the
way, {"waits": {"status", "message"}} while the model cannot answer ({} once it can again), and last
{"result": "FILE"} or {"error": ..., "code": ...}. It ends when stdin does: with whoever started it.

The object has `task` (as training/benchmarks/task.py reads it), `data` (a file by split), `folder`
(of its own: the cache of answers and the result), `base_url`, `secret`, `model`, `tokenizer` (a
folder with tokenizer.json and template.json, or "" where nothing is counted in tokens), `as_chat`,
`num_fewshot`, `limit`, `max_length`, and the seconds to wait for a route and for a model.

lm-eval asks through the gateway as any client would. It is given no way to anything else: sockets go
to the gateway alone, templates are rendered in a sandbox, data sets are the files that are there.
"""

import json
import os
import resource
import socket
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

MEMORY_BYTES = 16 * 2**30  # of address space; what is used is far below
CPU_SECONDS = 1800
ONLINE = ("socket.connect", "socket.sendto", "socket.sendmsg")
STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen")


def main() -> None:
    given = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    out = os.fdopen(os.dup(1), "w")  # whatever else prints does so to stderr
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(word: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(word) + "\n")
            out.flush()

    from training.benchmarks import harness

    _stay_inside(given["base_url"])
    try:
        say({"result": str(harness.run(given, say))})
    except harness.CannotRun as error:
        say({"error": error.message, "code": error.code})


def _end_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(3)


def _stay_inside(base_url: str) -> None:
    """From here on no socket but the gateway's, and no other program."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    there = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    allowed = {each[4][:2] for each in there} | {(parts.hostname, port)}

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event in ONLINE:
            address = details[-1]
            if isinstance(address, tuple) and address[:2] not in allowed:
                raise PermissionError(f"a benchmark reaches the gateway alone, not {address}")
        elif event in STARTS:
            raise PermissionError("a benchmark starts no other program")

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
