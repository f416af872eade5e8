"""The page of an experiment of the generalization lab: a question, an answer, a figure, tables."""

from collections.abc import Mapping, Sequence

from learned_opt.studies.statistics import mean_interval

_COMMAND = "python -m experiments.generalization --config=experiments/configs/generalization/"


def answer_page(question: str, name: str, setting: str, answer: str, *sections: str) -> str:
    """A page in Markdown.

    Args:
      question: the title.
      name: the experiment's, also of its config and figure.
      setting: what was done, a paragraph.
      answer: what was found, a paragraph.
      *sections: what follows the figure, each with a title of its own.
    """
    command = f"```bash\n{_COMMAND}{name}.py \\\n    --workdir=DIR\n```"
    figure = f"![{question}]({name}.svg)"
    parts = [f"# {question}", command, setting, "## The answer", answer, figure, *sections]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the columns after the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """The mean of values and its 95 % interval, such as '0.51 [0.48, 0.54]'."""
    mean, low, high = mean_interval(values)
    return f"{mean:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def differences(of: Mapping[str, Sequence[float]], label: str, other: str) -> list[float]:
    """The paired differences `of[label] − of[other]`."""
    return [a - b for a, b in zip(of[label], of[other], strict=True)]
