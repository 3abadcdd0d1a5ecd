"""What people have as training data: read, or named with its line before the first step."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from controlstack.core.errors import FileError, HintError, MissingDependencyError, PreprocessorError
from controlstack.training.data import packed, tables
from controlstack.training.data.checking import Depth, check, depth_for, refuse
from controlstack.training.data.columns import Columns
from controlstack.training.data.example import Example, Packed, read_source
from controlstack.training.data.hints import HintSource, Reader, View
from controlstack.training.data.listings import Listing, read_listing
from controlstack.training.settings import Settings
from controlstack.training.start import start
from PIL import Image

PLAIN = Columns()


def picture(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """A picture (height, width) of soft colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (0, 0), 4))
    return path


def fill50k(folder: Path, count: int = 4) -> list[dict[str, Any]]:
    """Pictures and hints in the layout of fill50k, without their listing."""
    for k in range(count):
        picture(folder / "source" / f"{k}.png", seed=k)
        picture(folder / "target" / f"{k}.png", seed=k + 50)
    return [{"source": f"source/{k}.png", "target": f"target/{k}.png", "prompt": f"circle {k}"} for k in range(count)]


def lines(folder: Path, rows: list[Any], name: str = "prompt.json") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts(listing: Listing) -> list[str]:
    return [example.prompt for example in listing.examples]


CIRCLES = [f"circle {k}" for k in range(4)]


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: "\n".join(map(json.dumps, rows)),
        lambda rows: "\ufeff" + "\n".join(map(json.dumps, rows)),
        lambda rows: json.dumps(rows, indent=1),
        lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows),
        lambda rows: "\r\n\r\n".join(map(json.dumps, rows)),
    ],
    ids=["lines", "byte order mark", "array", "pretty", "blank lines of Windows"],
)
def test_json_of_any_arrangement_is_read(tmp_path: Path, write: Any) -> None:
    (tmp_path / "prompt.json").write_text(write(fill50k(tmp_path)), encoding="utf-8")
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == CIRCLES
    assert listing.examples[1].hint == tmp_path / "source/1.png"
    assert not listing.bad


@pytest.mark.parametrize("name", ["prompt.json", "train/metadata.jsonl", "metadata.jsonl"])
def test_a_listing_is_found_or_given(tmp_path: Path, name: str) -> None:
    folder = (tmp_path / name).parent
    rows = fill50k(folder)
    path = lines(folder, rows, Path(name).name)
    assert prompts(read_listing(tmp_path, PLAIN)) == CIRCLES
    assert prompts(read_listing(path, PLAIN)) == CIRCLES


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_comma_separated_values_are_read(tmp_path: Path, delimiter: str) -> None:
    rows = fill50k(tmp_path)
    head = delimiter.join(("file_name", "conditioning_image", "text"))
    body = [delimiter.join((row["target"], row["source"], f'"{row["prompt"]}"')) for row in rows]
    (tmp_path / "metadata.csv").write_text("\n".join([head, *body, delimiter.join("ab")]), encoding="utf-8")
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == CIRCLES
    assert [str(bad) for bad in listing.bad] == [
        f"line 6 of '{tmp_path / 'metadata.csv'}': it has 2 values, expected 3"
    ]


def test_paths_of_windows_are_read(tmp_path: Path) -> None:
    rows = [{name: value.replace("/", "\\") for name, value in row.items()} for row in fill50k(tmp_path)]
    lines(tmp_path, rows)
    assert read_listing(tmp_path, PLAIN).examples[0].picture == tmp_path / "target/0.png"


def test_captions_beside_pictures_are_read(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / f"images/{k}.png", seed=k)
        picture(tmp_path / f"conditioning/{k}.jpg", seed=k)
        (tmp_path / f"images/{k}.txt").write_text(f"\ufeffcircle {k}\n", encoding="utf-8")
    picture(tmp_path / "images/9.png")
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == CIRCLES[:3]
    assert listing.examples[0].hint == tmp_path / "conditioning/0.jpg"
    assert "no caption beside it" in str(listing.bad[0])
    assert read_listing(tmp_path, HintSource(preprocessor="canny").columns()).examples[0].hint is None
    (tmp_path / "conditioning").rename(tmp_path / "lines")
    with pytest.raises(HintError, match="--hint-column"):
        read_listing(tmp_path, PLAIN)
    assert len(read_listing(tmp_path, Columns(hint="lines")).examples) == 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": None}, "'prompt' holds 'None', expected text"),
        ({"prompt": 7}, "'prompt' holds '7'"),
        ({"prompt": ["a", "b"]}, "expected text"),
        ({"source": None}, "the name of the hint is 'None'"),
        ({"target": ["a.png"]}, "the name of the picture"),
        ({"target": "nowhere.png"}, "'nowhere.png' is no file"),
        ({"target": "a" * 5000}, "cannot be a file's name"),
        ({"target": "a\0b"}, "cannot be a file's name|is no file"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    rows = fill50k(tmp_path)
    lines(tmp_path, [*rows[:2], {**rows[2], **row}, rows[3]])
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == ["circle 0", "circle 1", "circle 3"]
    with pytest.raises(HintError, match=rf"1 of 4 examples cannot be used: line 3 of .*({words}).*--skip-bad"):
        refuse(listing.bad, 4)


def test_what_is_wrong_everywhere_is_said_once(tmp_path: Path) -> None:
    lines(tmp_path, [{**row, "prompt": 3} for row in fill50k(tmp_path)])
    with pytest.raises(HintError) as caught:
        refuse(read_listing(tmp_path, PLAIN).bad, 4)
    said = str(caught.value)
    assert said.count("expected text") == 1
    assert "an empty prompt; and 3 more: mend them" in said


@pytest.mark.parametrize("text", ["{", "[1, 2]", "7", '"a"', "{'a': 1}", "[" * 50_000, "9" * 5000])
def test_what_is_no_row_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    rows = fill50k(tmp_path)
    (tmp_path / "prompt.json").write_text(f"{json.dumps(rows[0])}\n{text}\n{json.dumps(rows[1])}\n", encoding="utf-8")
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == ["circle 0", "circle 1"]
    assert all(bad.place == f"line 2 of '{tmp_path / 'prompt.json'}'" for bad in listing.bad)
    assert listing.bad


@pytest.mark.parametrize(("encoding", "words"), [("utf-16", "UTF-16"), ("latin-1", "line 2; it may be Latin-1")])
def test_text_in_another_encoding_is_told(tmp_path: Path, encoding: str, words: str) -> None:
    rows = fill50k(tmp_path)
    rows[1]["prompt"] = "un cercle légèrement bleu"
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "prompt.json").write_bytes(text.encode(encoding))
    with pytest.raises(FileError, match=words):
        read_listing(tmp_path, PLAIN)


def test_columns_have_the_names_that_one_gives(tmp_path: Path) -> None:
    rows = [
        {"a": row["target"], "b": row["source"], "c": row["prompt"], "prompt": "wrong", "source": "wrong.png"}
        for row in fill50k(tmp_path)
    ]
    lines(tmp_path, rows, "metadata.jsonl")
    assert prompts(read_listing(tmp_path, Columns("a", "b", "c"))) == CIRCLES
    (bad, *_) = read_listing(tmp_path, Columns("a", "nowhere", "c")).bad
    assert "it has the columns a, b, c, prompt, source, none is 'nowhere': name it with --hint-column" in str(bad)


def test_senseless_data_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HintError, match=r"holds none of prompt\.json"):
        read_listing(tmp_path, PLAIN)
    (tmp_path / "metadata.jsonl").write_text("\n \n")
    with pytest.raises(HintError, match=r"there is no data '.*nowhere'"):
        read_listing(tmp_path / "nowhere", PLAIN)
    with pytest.raises(HintError, match="lists no example"):
        read_listing(tmp_path, PLAIN)
    with pytest.raises(HintError, match=r"ends in \.json"):
        read_listing(picture(tmp_path / "a.png"), PLAIN)
    with pytest.raises(PreprocessorError, match="cany"):
        HintSource(preprocessor="cany")


def _archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset_archives_are_read_from_their_place(tmp_path: Path) -> None:
    png, other = picture(tmp_path / "x/a.png").read_bytes(), picture(tmp_path / "x/b.png", seed=1).read_bytes()
    files = {
        "0001.png": png,
        "0001.hint.png": other,
        "0001.txt": b"circle 0",
        "b/0002.image.png": other,
        "b/0002.conditioning_image.png": png,
        "b/0002.json": json.dumps({"caption": "circle 1"}).encode(),
        "0003.png": png,
        "0003.txt": b"\xff",
    }
    _archive(tmp_path / "shard-0.tar", files)
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == ["circle 0", "circle 1"]
    first = listing.examples[0]
    assert np.array_equal(read_source(first.picture), cv2.imread(str(tmp_path / "x/a.png"))[..., ::-1])
    assert first.hint is not None
    assert np.array_equal(read_source(first.hint), cv2.imread(str(tmp_path / "x/b.png"))[..., ::-1])
    assert "'0003' of" in str(listing.bad[0])
    (tmp_path / "shard-1.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(HintError, match="no tar archive"):
        read_listing(tmp_path, PLAIN)


def test_tables_in_parquet_need_a_package_or_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(tables, "import_module", absent)
    with pytest.raises(MissingDependencyError, match="pip install datasets"):
        read_listing(tmp_path, PLAIN)


def test_a_real_table_in_parquet_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for k in range(2):
        picture(tmp_path / f"{k}.png", seed=k)
    columns = {name: [str(tmp_path / f"{k}.png") for k in (0, 1)] for name in ("image", "conditioning_image")}
    table = datasets.Dataset.from_dict({**columns, "text": ["circle 0", None]})
    for name in columns:
        table = table.cast_column(name, datasets.Image())
    table.to_parquet(tmp_path / "train.parquet")
    listing = read_listing(tmp_path / "train.parquet", PLAIN)
    assert prompts(listing) == ["circle 0"]
    assert "row 2" in str(listing.bad[0])
    assert read_source(listing.examples[0].picture).shape == (64, 64, 3)


def test_a_table_names_pictures_in_its_own_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [*fill50k(tmp_path, 2), {"source": "source/0.png", "target": "nowhere.png", "prompt": "circle 9"}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "metadata.parquet")
    listing = read_listing(tmp_path, PLAIN)
    assert prompts(listing) == CIRCLES[:2]
    assert listing.examples[1].sources == (tmp_path / "target/1.png", tmp_path / "source/1.png")
    assert "row 3 of" in str(listing.bad[0])
    assert "'nowhere.png' is no file" in str(listing.bad[0])


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "source": str(tmp_path / row["source"])} for row in fill50k(tmp_path, 2)]
    table = datasets.Dataset.from_list([{**row, "target": str(tmp_path / row["target"])} for row in rows])
    for name in ("source", "target"):
        table = table.cast_column(name, datasets.Image())
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "several")
    datasets.DatasetDict(test=table).save_to_disk(tmp_path / "none")
    for name in ("one", "several"):
        listing = read_listing(tmp_path / name, PLAIN)
        assert prompts(listing) == CIRCLES[:2]
        assert read_source(listing.examples[1].picture).shape == (64, 64, 3)
    with pytest.raises(HintError, match="has the splits test, none is 'train'"):
        read_listing(tmp_path / "none", PLAIN)
    (tmp_path / "one" / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(HintError, match="cannot be read as a saved data set"):
        read_listing(tmp_path / "one", PLAIN)


@pytest.mark.parametrize("other", ["test-00000-of-00001.tar", "validation.tar", "val_1.tar", "Eval-0.tar"])
def test_what_is_kept_for_tests_is_not_trained_on(tmp_path: Path, other: str) -> None:
    png = picture(tmp_path / "x/a.png").read_bytes()
    for number, name in enumerate(("train-00000-of-00001.tar", other, "valley.tar")):
        example = {f"{number}.png": png, f"{number}.hint.png": png, f"{number}.txt": f"circle {number}".encode()}
        (tmp_path / "data").mkdir(exist_ok=True)
        _archive(tmp_path / "data" / name, example)
    assert prompts(read_listing(tmp_path, PLAIN)) == ["circle 0", "circle 2"]
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "data" / other).rename(alone / other)
    assert prompts(read_listing(alone, PLAIN)) == ["circle 1"]


@pytest.fixture
def eight(tmp_path: Path) -> Path:
    """Eight examples, of which the one in line 6 has a picture that was cut off."""
    lines(tmp_path, fill50k(tmp_path, 8))
    path = tmp_path / "target/5.png"
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path


def test_a_damaged_picture_is_found_before_the_first_step(settings: Settings, eight: Path) -> None:
    own = replace(settings, data=eight, hints=HintSource())
    with pytest.raises(HintError, match=r"1 of 8 examples cannot be used: line 6 of .*5\.png.*--skip-bad"):
        start(own)
    run = start(replace(own, skip_bad=True))
    assert len(run.examples) == 7
    assert [bad.place for bad in run.checked.bad] == [f"line 6 of '{eight / 'prompt.json'}'"]


def test_large_sets_are_read_whole_when_asked(settings: Settings, eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlstack.training.data.checking.CHEAP", 10)
    own = replace(settings, data=eight, hints=HintSource())
    assert start(own).checked.depth is Depth.HEADERS
    with pytest.raises(HintError, match="line 6"):
        start(replace(own, check=True))
    cv2.imwrite(str(eight / "source/2.png"), np.zeros((32, 64, 3), np.uint8))
    (eight / "source/3.png").write_bytes(b"")
    plain = replace(own, resolution=0)
    with pytest.raises(
        HintError, match=r"2 of 8 .*: line 3 of .*the hint is 64x32, its .*; line 4 of .*3\.png is empty"
    ):
        start(plain)


def test_packed_pictures_count_as_much_as_files(tmp_path: Path) -> None:
    """A large archive is not read whole before the first step."""
    member = packed.Member(tmp_path / "a.tar", "a", 0, 300 << 20)
    example = Example(member, None, "", "'a'")
    assert depth_for([example], False) is Depth.HEADERS
    assert check([example], Reader((HintSource(),)), Depth.HEADERS, alike=True).examples == [example]


def test_a_picture_on_its_side_is_no_other_size(tmp_path: Path) -> None:
    """By its header a photograph is as wide as high, turned the other way round."""
    upright, turned = tmp_path / "a.jpg", tmp_path / "b.jpg"
    Image.new("RGB", (64, 96)).save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64)).save(turned, exif=exif)
    examples = [Example(each, None, "", each.name) for each in (upright, turned, upright)]
    assert not check(examples, Reader((HintSource(preprocessor="canny"),)), Depth.HEADERS, alike=True).bad
    wide = tmp_path / "c.jpg"
    Image.new("RGB", (96, 64)).save(wide)
    found = check([*examples, Example(wide, None, "", "c")], Reader((HintSource(),)), Depth.HEADERS, alike=True)
    assert [str(each).split(":")[0:2] for each in found.bad] == [["c", " it is 96x64, the first one 64x96"]]


def test_a_hint_of_another_size_is_scaled_or_refused_at_once(tmp_path: Path) -> None:
    whole = picture(tmp_path / "a.png", (64, 96))
    half = tmp_path / "half.png"
    cv2.imwrite(str(half), cv2.resize(cv2.imread(str(whole)), (48, 32), interpolation=cv2.INTER_AREA))
    example = Example(whole, half, "", "line 1")
    image, hint = Reader((HintSource(),), 64)(example)
    assert image.shape == hint.shape == (64, 64, 3)
    assert np.abs(image.astype(int) - hint).mean() < 8  # the same place of the same picture
    found = check([example], Reader((HintSource(),)), Depth.FILES, alike=False)
    assert "the hint is 48x32, its picture 96x64" in str(found.bad[0])
    odd = Example(picture(tmp_path / "odd.png", (60, 64)), None, "", "line 2")
    found = check([odd], Reader((HintSource(preprocessor="canny"),)), Depth.FILES, alike=False)
    assert "multiples of 8" in str(found.bad[0])


def test_a_mirrored_crop_shows_the_same_place_in_picture_and_hint(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (64, 128))
    example, reader = Example(path, path, "", "line 1"), Reader((HintSource(),), 64)
    right, _ = reader(example, View(across=1.0))
    assert np.array_equal(right, cv2.imread(str(path))[:, 64:, ::-1])
    mirrored, hint = reader(example, View(mirrored=True, across=1.0))
    assert np.array_equal(mirrored, right[:, ::-1])
    assert np.array_equal(hint, mirrored)


def test_every_example_is_read_where_that_is_cheap(eight: Path) -> None:
    examples = read_listing(eight, PLAIN).examples
    assert depth_for(examples, False) is Depth.FILES
    assert depth_for(examples, True) is Depth.HINTS


def test_a_member_of_an_archive_is_a_packed_picture(tmp_path: Path) -> None:
    member: Packed = packed.Member(picture(tmp_path / "a.png"), "a.png", 0, 10**9)
    with pytest.raises(HintError, match="ends inside"):
        member.read()
