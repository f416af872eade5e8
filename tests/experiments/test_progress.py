"""What a progress display says of the time left."""

import time

import pytest

from experiments.common.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_time_left_follows_from_the_steps_done(clock, capsys):
    with Progress("work", 10, 40) as bar:
        clock[0] = 120.0
        bar.update(20, {"meta_loss": 0.5, "skipped": 2.0})
    assert lines(capsys) == ["work 20/40, meta-loss 0.5, skipped 2, 4.0 minutes left"]


def test_steps_that_are_not_alike_are_weighted(clock, capsys):
    def work(step):  # steps from 10 on take three times as long
        return step + 2.0 * max(step - 10, 0)

    with Progress("work", 0, 20, work=work) as bar:
        clock[0] = 60.0
        bar.update(5, {})
        clock[0] = 240.0
        bar.update(15, {})
    assert lines(capsys) == ["work 5/20, 7.0 minutes left", "work 15/20, 2.4 minutes left"]


def test_nothing_is_said_before_there_is_something_to_say(clock, capsys):
    with Progress("work", 5, 20) as bar:
        clock[0] = 60.0
        bar.update(5, {})
    with Progress("work", 0, 1, quiet=True) as bar:
        clock[0] = 120.0
        bar.update(1, {})
    assert lines(capsys) == ["work 5/20"]
