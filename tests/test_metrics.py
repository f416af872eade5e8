import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.metrics import MetricsWriter, read_metrics


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_lines_are_strict_json_and_on_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(3, {"a": jnp.float32(0.5), "n": np.int64(7), "flag": jnp.bool_(True), "s": "x"})
    writer.write(jnp.int32(4), {"a": jnp.nan, "b": -np.inf, "c": jnp.array([jnp.inf])})

    def refuse(name):
        raise AssertionError(name)

    rows = [json.loads(line, parse_constant=refuse) for line in lines(tmp_path)]
    assert rows[0] == {"step": 3, "a": 0.5, "n": 7, "flag": True, "s": "x"}
    assert rows[1] == {"step": 4, "a": "nan", "b": "-inf", "c": "inf"}
    back = read_metrics(tmp_path)
    assert np.isnan(back[1]["a"]) and back[1]["b"] == -np.inf and back[0]["s"] == "x"
    writer.close()


def test_resume_drops_later_and_cut_lines(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "loss": 1')  # cut short by a kill
    with MetricsWriter(tmp_path, resume_step=20) as writer:
        writer.write(25, {"loss": 1})
    assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20, 25]
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {})
    assert lines(tmp_path) == ['{"step": 1}']


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event

    with MetricsWriter(tmp_path) as writer:
        writer.write(10, {"loss": 0.25, "note": "text"})
    found = []
    for path in (tmp_path / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:  # length (8 bytes), its check sum (4), the event, its check sum (4)
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
    assert found == [(10, "loss", 0.25)]


def test_bad_metrics(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="'loss' must be one number.*\\(2,\\)"):
            writer.write(0, {"loss": np.ones(2)})
        with pytest.raises(ValueError, match="'step'"):
            writer.write(0, {"step": 1})
    assert lines(tmp_path) == []
