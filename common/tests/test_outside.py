import pytest

from common.outside import OutsideHosts, read_base_url


@pytest.mark.parametrize(
    ("words", "host", "ip", "allowed"),
    [
        ("", "api.example.com", "93.184.216.34", False),
        ("api.example.com", "api.example.com", "93.184.216.34", True),
        ("api.example.com", "API.example.com", "93.184.216.34", True),
        ("api.example.com", "evil.example.com", "93.184.216.34", False),
        # the operator named this very host: wherever it leads is meant
        ("models.corp", "models.corp", "10.1.2.3", True),
        # a pattern is no word for the inside of the company, nor for this machine
        ("*.example.com", "a.example.com", "93.184.216.34", True),
        ("*.example.com", "a.example.com", "10.1.2.3", False),
        ("*.example.com", "a.example.com", "169.254.169.254", False),
        ("*.example.com", "example.com", "93.184.216.34", False),
        ("*", "a.b", "93.184.216.34", True),
        ("*", "a.b", "127.0.0.1", False),
        ("*", "a.b", "::1", False),
        ("*", "a.b", "::ffff:10.0.0.1", False),
        ("*", "a.b", "fd00::1", False),
        ("10.20.0.0/16", "whatever", "10.20.3.4", True),
        ("10.20.0.0/16", "whatever", "10.21.3.4", False),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
        ("*", "a.b", "nonsense", False),
    ],
)
def test_which_address_of_a_host_may_be_spoken_to(words, host, ip, allowed) -> None:
    assert OutsideHosts.of(words).allows(host, ip) is allowed


@pytest.mark.parametrize(
    ("words", "host", "known"),
    [
        ("*", "10.0.0.1", False),
        ("*", "models.example.com", True),
        ("10.0.0.0/8", "10.0.0.1", True),
        (" api.example.com , *.corp ", "x.corp", True),
        ("api.example.com", "corp", False),
    ],
)
def test_which_hosts_are_known_by_name(words, host, known) -> None:
    assert OutsideHosts.of(words).knows(host) is known


@pytest.mark.parametrize("word", ["http://a", "a b", "..", "10.0.0.0/99"])
def test_a_word_that_is_neither_a_name_nor_a_network_is_refused(word) -> None:
    with pytest.raises(ValueError, match=r"."):
        OutsideHosts.of(word)


def test_a_base_url_is_read_with_its_default_port() -> None:
    assert read_base_url("https://a.example/v1/") == ("a.example", 443, "/v1", True)
    assert read_base_url("http://10.0.0.1:8000") == ("10.0.0.1", 8000, "", False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example/v1",
        "ftp://a.example",
        "https://",
        "https://user:word@a.example",
        "https://a.example/v1?x=1",
        "https://a.example:99999",
        "https://a.example/v1\r\nx: y",
        "https://ä.example",
    ],
)
def test_what_is_no_base_url_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_base_url(text)
