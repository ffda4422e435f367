import pytest
from django.test import Client
from django.utils import timezone

from accounts.tests.make import make_member, make_organization
from console import charts
from usage.tests.make import make_event, tell

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada(client: Client) -> Client:
    client.force_login(make_member(make_organization()))
    return client


def test_without_usage_the_page_says_what_to_do(ada):
    page = ada.get("/usage/explore/").content.decode()
    assert "Nothing here" in page
    assert "/keys/" in page


@pytest.mark.parametrize("measure", ["tokens", "requests", "first_token"])
def test_each_measure_has_its_chart_and_its_csv(ada, measure):
    now = timezone.now().timestamp()
    tell(
        make_event(make_organization(), at=now, is_streamed=True),
        make_event(make_organization(), at=now, model_name="big", is_streamed=True),
    )
    query = {"measure": measure, "span": "24h"}
    page = ada.get("/usage/explore/", query).content.decode()
    assert page.count('class="chart-key') == 2
    assert "big" in page
    data = ada.get("/usage/explore/", query | {"format": "csv"}).content.decode()
    assert data.splitlines()[0].lstrip("\ufeff").split(",")[0] == "hour"
    assert set(data.splitlines()[0].split(",")[1:]) == {"tiny", "big"}
    assert len(data.splitlines()) in (25, 26)


def test_a_span_too_long_for_single_requests_is_refused_in_words(ada):
    answer = ada.get("/usage/explore/", {"measure": "errors", "span": "90d"})
    assert answer.status_code == 422
    assert "Choose a shorter span" in answer.content.decode()


def test_stacks_lie_on_each_other():
    chart = charts.stacked_chart(
        title="Tokens",
        x_title="Day",
        y_title="Tokens",
        names=["a", "b"],
        stacks=[("one", [4.0, 0.0]), ("two", [6.0, 5.0])],
    )
    (below,), (above, alone) = (series.bars for series in chart.series)
    assert below["y"] + below["height"] == charts.HEIGHT
    assert above["y"] + above["height"] == pytest.approx(below["y"], abs=0.2)
    assert alone["y"] + alone["height"] == charts.HEIGHT
    assert charts.stacked_chart(
        title="", x_title="", y_title="", names=["a"], stacks=[("one", [0.0])]
    ).empty
