"""What lies in docs: small, referred to, and nothing that is referred to is missing."""

import json
import re
from pathlib import Path

from learned_opt.pretrained import pretrained_card

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for path in (ROOT / "docs").rglob("*")
    if path.is_file() and not {"_build", "__pycache__"} & {*path.relative_to(ROOT).parts}
]
PAGES = [ROOT / "README.md", *sorted(path for path in FILES if path.suffix == ".md")]
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


QUESTIONS = (ROOT / "docs/questions.md").read_text(encoding="utf-8")


def test_the_code_of_the_questions_page_prints_what_it_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    ((code, printed),) = re.findall(
        r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", QUESTIONS, re.S
    )
    exec(compile(code, "docs/questions.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_each_question_has_a_paragraph_a_figure_and_a_command():
    questions = QUESTIONS.split("\n## ")[1:]
    assert [question.partition(".")[0] for question in questions] == [*"123456789"]
    for question in questions:
        assert question.partition("\n")[0].endswith("?")
        (command,) = re.findall(r"```bash\n(.*?)```", question, re.S)
        assert len(re.findall(r"^!\[", question, re.M)) == 1 and question.count("\n**") == 1
        program, config = re.match(r"python -m experiments\.(\w+) --config=(\S+)", command).groups()
        assert (ROOT / "experiments" / f"{program}.py").exists() and (ROOT / config).exists()
        assert "--workdir=DIR" in command


def test_the_questions_page_says_what_the_leaderboard_says():
    summary = json.loads((ROOT / "docs/leaderboard/summary.json").read_text())["rules"]
    general = summary["general_default"]
    for name, numbers in (
        ("times fewer steps than Adam", general["speed_up"]),
        ("times its training loss", general["train"]["adam"]),
        ("times its test loss", general["heldout"]["adam"]),
    ):
        written = "{:.2f} [{:.2f}, {:.2f}]".format(*numbers)
        assert f"{written} {name}" in " ".join(QUESTIONS.split())
    for rule in ("general_default", "celo2_cosine", "schedule_free_adamw"):
        assert f"{summary[rule]['step_time']:.2f}" in QUESTIONS
        assert f"{summary[rule]['speed_up'][0]:.2f}" in QUESTIONS
    ratio = general["step_time"] / general["speed_up"][0]
    assert f"2.68 / 2.62 = {ratio:.2f}" in " ".join(QUESTIONS.split())


def test_the_studies_page_claims_no_more_than_its_intervals():
    for path in (ROOT / "docs/studies/README.md", ROOT / "docs/studies/report.html"):
        assert "never worse" not in path.read_text(encoding="utf-8")


def test_what_a_step_costs_is_said_for_sizes_and_as_the_card_says_it():
    card = pretrained_card("lstm_mnist")["step_cost"]
    start = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    for claim in ("9 to 11 times", "3.2 times", "750 times", "320 bytes"):
        assert claim in card
    assert "750 times" in start and "320 bytes" in start and "a million parameters" in start
    for said in re.findall(r"([\w. ]+?) times Adam's", start):
        assert "six to twelve" not in said
