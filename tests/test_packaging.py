"""What a wheel holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_its_weights(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "tests")
    )
    run = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source]
    subprocess.run(run, check=True)
    (wheel,) = tmp_path.glob("learned_opt-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = ROOT / "learned_opt"
    expected = {*folder.rglob("*.py"), *folder.glob("pretrained/*.[nj]*"), folder / "py.typed"}
    expected |= {*folder.glob("networks/vgg16_conv3_1/*"), *folder.glob("tasks/paintings/*")}
    assert len(expected & {*folder.rglob("*.png")}) == 4
    assert {str(path.relative_to(ROOT)) for path in expected} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"learned_opt"}
    licences = {name.split("/licenses/")[1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "learned_opt/networks/vgg16_conv3_1/LICENSE"}
