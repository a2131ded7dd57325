"""report.html: one page that can be sorted and filtered, without a network, whatever the texts in the records."""

import re
from urllib.parse import unquote

import pytest

from results import report
from tests import browser
from tests.results.test_report import put, scores

HOSTILE = """<script>document.title='broken'</script>"'&{{ 7*7 }}"""


@pytest.fixture
def folder(tmp_path):
    """Four configurations: one distinguished from the best, one not, one with a hostile name, one that failed."""
    folder = tmp_path / "runs" / "a b#1"
    for name, numbers in (("lenet", [0.9, 0.91, 0.92, 0.93]), ("vit", [0.905, 0.9, 0.92, 0.92]), (HOSTILE, [0.5] * 4)):
        for seed, number in enumerate(numbers):
            params = 10**6 if name == "vit" else 61706
            job = folder / f"{name[:5].strip('<')}-{seed}"
            put(job, f"model.name={name}", f"seed={seed}", metrics=scores(number), params=params)
            (job / "curves.png").write_bytes(b"")
    put(folder / "bad", "model.name=bad", "seed=0", status="failed", error=f"no {HOSTILE}")
    report.write([folder], plots=False)
    return folder


def test_texts_are_escaped_and_links_lead_to_the_jobs(folder):
    page = (folder / "report.html").read_text()
    assert page.count("<script>") == 1 and "{{ 7*7 }}" in page
    links = [unquote(link) for link in re.findall(r'href="([^"]+)"', page)]
    assert len(links) == 13 + 13 + 12 and all((folder / link).exists() for link in links)
    assert "http" not in page.replace("http-equiv", "") and "src=" not in page.replace("-src", "")
    assert f"python train.py &#39;resume={folder}&#39;" in page


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "")
def test_the_page_opens_sorts_and_filters(folder):
    with browser.Page() as page:
        page.driver.get((folder / "report.html").as_uri())

        def column(table: str, number: int) -> list[str]:
            """The texts of the visible cells of a column, from the top."""
            return page.driver.execute_script(
                f"return [...document.querySelectorAll('#{table} tbody tr')].filter(row => !row.hidden)"
                f".map(row => row.cells[{number}].textContent)"
            )

        def filtered(table: str, text: str) -> None:
            page.driver.execute_script(
                f"const input = document.querySelector('[data-filter={table}]'); input.value = arguments[0];"
                "input.dispatchEvent(new Event('input'))",
                text,
            )

        words = page.words()
        assert "Best by val/top1: name lenet, with 91.50 ± 1.29 %" in words
        assert column("configurations", 1) == ["lenet", "vit", HOSTILE, "bad"]
        assert column("configurations", 3) == ["best", "not distinguished", "worse", "–"]
        page.click("params")
        assert column("configurations", 1) == ["lenet", HOSTILE, "vit", "bad"]
        page.click("params")  # the other way; what has no number stays last
        assert column("configurations", 1) == ["vit", "lenet", HOSTILE, "bad"]
        filtered("configurations", "not DISTINGUISHED")
        assert column("configurations", 1) == ["vit"]
        filtered("configurations", "")
        assert len(column("configurations", 1)) == 4
        filtered("jobs", "vit completed")
        assert column("jobs", 0) == [f"vit-{seed}" for seed in range(4)]
        page.click("val/top1")
        assert column("jobs", 4) == ["0.9000", "0.9050", "0.9200", "0.9200"]
        assert page.driver.title == "runs/a b#1"
        assert page.driver.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert page.driver.get_log("browser") == []
