"""What lies in docs: small, referred to, and nothing that is referred to is missing."""

import re
from pathlib import Path

from learned_opt.pretrained import pretrained_card

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = [path for path in (ROOT / "docs").rglob("*") if path.is_file()]
MEGABYTE = 1_000_000


def links(page):
    """The files of this repository that a page refers to."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    targets = [t.partition("#")[0] for t in targets if not re.match(r"https?:|mailto:|#", t)]
    return {(page.parent / target).resolve() for target in targets}


def test_docs_are_small():
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in FILES}
    assert {name: size for name, size in sizes.items() if size > MEGABYTE} == {}
    assert sum(sizes.values()) <= 4 * MEGABYTE


def test_links_lead_somewhere():
    for page in PAGES:
        missing = sorted(str(path) for path in links(page) if not path.exists())
        assert not missing, f"{page.relative_to(ROOT)} refers to {missing}"


def test_every_file_of_the_studies_is_referred_to():
    named = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = {path.name for path in FILES if path.parent.name == "studies"} - {"README.md"}
    assert {name for name in files if name not in named} == set()


def test_the_code_of_the_studies_page_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/studies/README.md").read_text(), re.S)
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/studies/README.md", "exec"), {})
    assert "learning_rate" in capsys.readouterr().out


def test_the_studies_page_claims_no_more_than_its_intervals():
    for path in (ROOT / "docs/studies/README.md", ROOT / "docs/studies/report.html"):
        assert "never worse" not in path.read_text(encoding="utf-8")


def test_what_a_step_costs_is_said_for_sizes_and_as_the_card_says_it():
    card = pretrained_card("lstm_mnist")["step_cost"]
    readme = (ROOT / "README.md").read_text()
    for claim in ("9 to 11 times", "3.2 times", "750 times", "320 bytes"):
        assert claim in card
    assert "750 times" in readme and "320 bytes" in readme and "a million parameters" in readme
    for said in re.findall(r"([\w. ]+?) times Adam's", readme):
        assert "six to twelve" not in said
