import socket

import pytest

from factory import processes
from factory.settings.base import broker_url, database_settings


def test_one_platform_a_folder(tmp_path, settings) -> None:
    settings.FACTORY_DATA = tmp_path
    again = processes.only_platform_here()
    with processes.only_platform_here(), pytest.raises(processes.PlatformError, match="already"):
        again.__enter__()
    with processes.only_platform_here():
        pass  # free again


def test_a_taken_port_is_named_with_its_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(processes.PlatformError, match="FACTORY_BASE_URL"):
            processes._check_port("127.0.0.1", taken.getsockname()[1])


def test_urls_of_services_are_understood() -> None:
    read = database_settings("postgresql://ann:p%40ss@db:5433/factory?sslmode=require")
    assert (read["HOST"], read["PORT"], read["NAME"]) == ("db", "5433", "factory")
    assert (read["USER"], read["PASSWORD"]) == ("ann", "p@ss")
    assert read["OPTIONS"] == {"sslmode": "require"}
    assert database_settings("postgresql://postgres@/x?host=/run/pg")["HOST"] == "/run/pg"
    assert broker_url("redis://r:6379/1") == "redis://r:6379/1"
    assert broker_url("unix:///run/r.sock?db=2") == "redis+socket:///run/r.sock?virtual_host=2"
    with pytest.raises(ValueError, match="postgresql://"):
        database_settings("mysql://x/y")
