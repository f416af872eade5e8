"""Pictures of every kind of file, and what is said of those that are not as expected."""

import numpy as np
import pytest
from PIL import Image

from learned_opt.tasks import pictures, style_transfer


@pytest.fixture
def save(tmp_path):
    """Saves a picture of a mode and a size in the folder `tmp_path`."""

    def save_one(name, mode="RGB", size=(24, 16), color=(10, 200, 90)):
        kind = "RGBA" if mode in ("RGBA", "LA") else "RGB"
        Image.new(kind, size, color).convert(mode).save(tmp_path / name)
        return tmp_path / name

    return save_one


def test_a_picture_is_cut_to_its_middle_and_resized(tmp_path):
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :8], wide[:, 24:] = (255, 0, 0), (0, 255, 0)  # cut off
    wide[:8, 8:24], wide[8:, 8:24] = (0, 0, 40), (0, 0, 200)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = pictures.read_picture(tmp_path / "wide.png", 8)
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8
    assert (found[:, 2:-2, :2] < 5).all()  # a trace of the filter
    assert (found[:3, ..., 2] < 60).all() and (found[-3:, ..., 2] > 180).all()


def test_a_reduction_is_lanczos(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "a.png", 16), expected)


def test_a_photograph_is_held_as_its_camera_was(tmp_path):
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 8, 16))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    image.save(tmp_path / "a.png", exif=exif)
    found = pictures.read_picture(tmp_path / "a.png", 16)
    assert (found[:6] > 200).all() and (found[-6:] < 50).all()


def test_grey_alpha_and_small_pictures_are_taken_with_a_note(save):
    with pytest.warns(UserWarning, match="a.png is grey: its three channels are alike"):
        grey = pictures.read_picture(save("a.png", "L"), 8)
    assert (grey == grey[..., :1]).all()
    with pytest.warns(UserWarning, match="b.png has an alpha channel and was laid on white"):
        clear = pictures.read_picture(save("b.png", "RGBA", color=(0, 0, 0, 0)), 8)
    assert (clear == 255).all()
    with pytest.warns(UserWarning, match="c.png is smaller than 20 × 20 and was enlarged"):
        assert pictures.read_picture(save("c.png"), 20).shape == (20, 20, 3)
    assert pictures.read_picture(save("d.jpg"), 16).shape == (16, 16, 3)  # no warning
    np.testing.assert_allclose(pictures.read_picture(save("e.png", "P"), 8)[4, 4, 1], 200, atol=30)


def test_a_folder_says_a_thing_once(save, tmp_path):
    save("a.jpg")
    save("b.png", "L")
    save("c.PNG", "LA")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning) as warned:
        found = pictures.read_folder(tmp_path, 8)
    assert found.shape == (3, 8, 8, 3)
    said = [str(warning.message).replace(str(tmp_path), "DIR") for warning in warned]
    assert said == [
        "b.png and 1 more in DIR: is grey: its three channels are alike",
        "c.PNG in DIR: has an alpha channel and was laid on white",
    ]


def test_what_is_no_picture_is_refused(save, tmp_path):
    (tmp_path / "text.png").write_text("to be or not to be")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    whole = save("cut.jpg", size=(64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name, message in [
        ("text.png", "text.png is no picture that can be read"),
        ("cut.jpg", "cut.jpg is no picture that can be read"),
        ("deep.png", "deep.png has more than 8 bits a channel: save it with 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            pictures.read_picture(tmp_path / name, 8)
    with pytest.raises(FileNotFoundError, match="there is no picture .*none.png"):
        pictures.read_picture(tmp_path / "none.png", 8)


def test_folders_with_splits_and_without(save, tmp_path):
    for split, color in [("train", (0, 0, 0)), ("valid", (255, 255, 255))]:
        (tmp_path / "split" / split).mkdir(parents=True)
        save(f"split/{split}/a.png", color=color)
    assert not pictures.contents(tmp_path / "split", 8, "train").any()
    assert (pictures.contents(tmp_path / "split", 8, "valid") == 255).all()
    with pytest.raises(FileNotFoundError, match="there is no folder .*split/test"):
        pictures.contents(tmp_path / "split", 8, "test")
    save("a.png")
    for split in ("train", "test"):
        assert pictures.contents(tmp_path, 8, split).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="unknown split 'testing'"):
        pictures.contents(None, 8, "testing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder .*empty holds no pictures"):
        pictures.contents(tmp_path / "empty", 8)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        pictures.styles(None, tmp_path / "nowhere", 8)


def test_pictures_that_need_no_download():
    assert pictures.contents(None, 128).shape == (2, 128, 128, 3)
    found = pictures.styles(pictures.PAINTINGS, None, 128)
    assert found.shape == (4, 128, 128, 3)
    assert len({style.mean() for style in found}) == 4
    with pytest.raises(ValueError, match="unknown photograph 'dog'; known: china, flower"):
        pictures.photograph("dog", 8)


def test_styles_by_name_path_and_folder(save, tmp_path):
    path = save("own.png")
    by_path = pictures.styles(str(path), None, 8)
    np.testing.assert_array_equal(pictures.styles("own", tmp_path, 8), by_path)
    np.testing.assert_array_equal(pictures.styles(None, tmp_path, 8), by_path)
    np.testing.assert_array_equal(pictures.styles(("scream", str(path)), None, 8)[1:], by_path)
    with pytest.raises(ValueError, match="unknown style 'cry'; known: church_at_auvers, minotaur"):
        pictures.styles("cry", None, 8)
    with pytest.raises(FileNotFoundError, match="there is no picture cry.png"):
        pictures.styles("cry.png", None, 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="the folder .*empty holds no pictures"):
        pictures.styles("own", tmp_path / "empty", 8)
    with pytest.raises(ValueError, match="name at least one style"):
        pictures.styles((), None, 8)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (30, "size must be a multiple of 4, .*got 30: take 28 or 32"),
        (2, "got 2: take 4$"),
        (0, "size must be positive"),
        (8.5, "size must be a positive integer"),
    ],
)
def test_sizes_that_pooling_does_not_divide_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        style_transfer(size=size)
