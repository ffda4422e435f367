"""The embedded services: kept data, clean ends, clear refusals, as root and as anybody."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from factory import embedded

NOBODY = 65534


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="embedded-"))
    folder.chmod(0o755)
    yield folder / "data"
    embedded.stop(folder / "data")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(embedded.socket_folder(folder / "data"), ignore_errors=True)


def test_what_was_written_is_there_after_a_stop_and_a_start(data: Path) -> None:
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    redis.Redis.from_url(embedded.redis_url(data)).set("kept", "42")
    embedded.stop(data)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(embedded.database_url(data), connect_timeout=2)
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(embedded.redis_url(data)).ping()
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert redis.Redis.from_url(embedded.redis_url(data)).get("kept") == b"42"


def test_a_second_start_finds_the_first_and_changes_nothing(data: Path) -> None:
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        first = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        assert connection.execute("SELECT pg_postmaster_start_time()").fetchone() == first


def test_killed_servers_come_back_with_what_they_had_acknowledged(data: Path) -> None:
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS answer")
    for name in ("postgres/postmaster.pid", "redis/valkey.pid"):
        os.kill(int((data / name).read_text().split()[0]), 9)
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (7,)


def test_a_folder_of_something_else_is_refused_by_name(data: Path) -> None:
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "letters.txt").write_text("mine")
    with pytest.raises(embedded.EmbeddedServiceError, match="FACTORY_DATA"):
        embedded.start_postgres(data)
    assert (data / "postgres" / "letters.txt").read_text() == "mine"


def test_a_deep_folder_still_gets_sockets_that_fit(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    path = embedded.socket_folder(deep) / ".s.PGSQL.5432.lock"
    assert len(str(path)) <= 107
    assert embedded.socket_folder(deep) != embedded.socket_folder(tmp_path / "other")


@pytest.mark.skipif(os.geteuid() != 0, reason="changing to another user needs root")
def test_an_ordinary_user_can_run_them_too(data: Path) -> None:
    data.parent.chmod(0o777)
    reader, writer = os.pipe()
    child = os.fork()  # not a new interpreter: its files may be closed to other users
    if child == 0:
        _run_as_nobody(data, writer)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert said == f"{NOBODY} 42"


def _run_as_nobody(data: Path, writer: int) -> None:
    code = 1
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        embedded.start(data)
        with psycopg.connect(embedded.database_url(data)) as connection:
            answer = connection.execute("SELECT 42").fetchone()[0]
        embedded.stop(data)
        os.write(writer, f"{os.getuid()} {answer}".encode())
        code = 0
    except BaseException as error:
        os.write(writer, repr(error).encode())
    finally:
        os._exit(code)
