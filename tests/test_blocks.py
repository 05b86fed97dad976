"""Blocks: which directory the block of an annotation URL means (x, y, z in voxels)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neurotrale.annotations.files.blocks import BlockDirectory, Blocks
from neurotrale.errors import DamagedError, MissingError
from neurotrale.storage.data_root import DataRoot
from neurotrale.storage.names import AnnotationName, BlockName

SIZE = "64,64,64\n"
WARNING = "blocks are looked up by their literal names"


@pytest.fixture
def above(tmp_path: Path) -> Path:
    """The ``annotations`` directory of the dataset ``brain`` below the root ``tmp_path``."""
    directory = tmp_path / "brain" / "annotations"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    return Blocks(DataRoot(tmp_path))


def named(blocks: Blocks, block: str) -> BlockDirectory:
    """Find a block as a script means it."""
    return blocks.directory(AnnotationName(("brain",), BlockName.parse(block), "fibers.json"))


def find(blocks: Blocks, block: str) -> BlockDirectory:
    """Find a block as a viewer means it."""
    meant = blocks.for_viewer(("brain",), BlockName.parse(block))
    return blocks.directory(AnnotationName(("brain",), meant, "fibers.json"))


def found(blocks: Blocks, block: str) -> str:
    """Name the directory that a viewer's block has, or would get."""
    *outer, name = find(blocks, block).parts
    assert outer == ["brain", "annotations"]
    return name


def write(path: Path, text: str, *, age_s: int = 0) -> None:
    """Write in place with a modification time of its own, as another program would."""
    path.write_text(text)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - age_s * 10**9))


@pytest.mark.parametrize(
    ("size", "block", "name"),
    [
        pytest.param("64,64,64", "x0y0z0", "x0y0z0", id="the-origin"),
        pytest.param("64,64,64", "x63y63z63", "x0y0z0", id="last-voxel-of-the-first-block"),
        pytest.param("64,64,64", "x64y0z0", "x1y0z0", id="first-voxel-of-the-next-block-in-x"),
        pytest.param("64,64,64", "x0y64z0", "x0y1z0", id="first-voxel-of-the-next-block-in-y"),
        pytest.param("64,64,64", "x0y0z64", "x0y0z1", id="first-voxel-of-the-next-block-in-z"),
        pytest.param("1024,512,64", "x1023y512z200", "x0y1z3", id="a-size-for-each-axis"),
        pytest.param("1,1,1", "x7y8z9", "x7y8z9", id="blocks-of-one-voxel"),
        pytest.param(
            "10,10,10",
            "x999999999999999999y0z0",
            "x99999999999999999y0z0",
            id="far-beyond-any-volume",
        ),
        pytest.param("64,64,64", "x0064y0000z0000", "x1y0z0", id="leading-zeros"),
    ],
)
def test_block_that_is_a_position_lies_in_the_directory_of_its_index(
    above: Path, blocks: Blocks, size: str, block: str, name: str
) -> None:
    (above / "block_info.csv").write_text(size)
    (above / name).mkdir()
    directory = find(blocks, block)
    assert directory.parts == ("brain", "annotations", name)
    assert directory.exists


def test_block_directory_of_the_very_name_wins_over_the_position(
    above: Path, blocks: Blocks
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    for name in ("x0y0z0", "x1y0z0"):
        (above / name).mkdir()
    assert found(blocks, "x1y0z0") == "x1y0z0"


def test_block_of_an_annotations_directory_at_the_root_is_found(
    tmp_path: Path, blocks: Blocks
) -> None:
    (tmp_path / "annotations" / "x1y0z0").mkdir(parents=True)
    (tmp_path / "annotations" / "block_info.csv").write_text(SIZE)
    block = blocks.for_viewer((), BlockName.parse("x64y0z0"))
    assert block == blocks.at((), (64, 0, 0)) == BlockName("x1y0z0", (1, 0, 0))
    name = AnnotationName((), block, "fibers.json")
    assert blocks.directory(name) == BlockDirectory(("annotations", "x1y0z0"), True)


@pytest.mark.parametrize("present", [(), ("x0y0z0",), ("x0001_y0001",)], ids=str)
@pytest.mark.parametrize("size", [SIZE, "1,2", None], ids=["size", "malformed", "no-size"])
def test_block_of_a_script_is_never_taken_for_a_position(
    above: Path, blocks: Blocks, present: tuple[str, ...], size: str | None
) -> None:
    if size:
        (above / "block_info.csv").write_text(size)
    for name in present:
        (above / name).mkdir()
    for index in ("x5y0z0", "x1y2z3", "x64y64z64"):
        assert named(blocks, index) == BlockDirectory(("brain", "annotations", index), False)


@pytest.mark.parametrize(
    ("present", "name"),
    [
        pytest.param((), "x1y2z3", id="no-blocks-yet"),
        pytest.param(("x0y0z0",), "x1y2z3", id="named-by-index"),
        pytest.param(("x1y2z3", "x0002_y0003"), "x1y2z3", id="both-are-there"),
        pytest.param(("x0001_y0001",), "x0002_y0003", id="named-as-by-the-original-service"),
        pytest.param(("x70y130z200",), "x1y2z3", id="directory-named-like-the-position"),
    ],
)
def test_block_at_a_position_is_the_one_that_holds_it(
    above: Path, blocks: Blocks, present: tuple[str, ...], name: str
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    for other in present:
        (above / other).mkdir()
    assert blocks.at(("brain",), (70, 130, 200)).text == name


@pytest.mark.parametrize("position", [(-1, 0, 0), (0, -1, 0), (0, 0, -64)])
def test_block_at_a_negative_position_is_missing(
    above: Path, blocks: Blocks, position: tuple[int, int, int]
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    with pytest.raises(MissingError, match="outside the volume"):
        blocks.at(("brain",), position)


def test_block_at_a_position_without_a_block_size_is_an_error_that_says_how_to_mend_it(
    above: Path, blocks: Blocks
) -> None:
    with pytest.raises(MissingError, match=r"no brain/annotations/block_info\.csv.*64,64,64"):
        blocks.at(("brain",), (1, 2, 3))
    (above / "block_info.csv").write_text("64;64;64")
    with pytest.raises(DamagedError, match="three positive integers"):
        blocks.at(("brain",), (1, 2, 3))


@pytest.mark.parametrize(
    ("block", "name"),
    [
        pytest.param("x0y0z0", "x0001_y0001", id="the-origin"),
        pytest.param("x70y130z999", "x0002_y0003", id="z-does-not-count"),
        pytest.param("x640000y0z0", "x10001_y0001", id="more-than-four-digits"),
    ],
)
def test_block_of_a_legacy_dataset_is_counted_from_one_without_z(
    above: Path, blocks: Blocks, block: str, name: str
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    (above / name).mkdir()
    assert find(blocks, block) == BlockDirectory(("brain", "annotations", name), True)


def test_block_directory_of_a_legacy_name_is_found_by_that_name(
    above: Path, blocks: Blocks
) -> None:
    (above / "x0001_y0002").mkdir()
    assert find(blocks, "x0001_y0002").exists
    assert named(blocks, "x0001_y0002").exists


def test_block_with_directories_of_both_namings_is_the_one_with_z(
    above: Path, blocks: Blocks
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    for name in ("x1y0z0", "x0002_y0001", "x0003_y0001"):
        (above / name).mkdir()
    assert found(blocks, "x64y0z5") == "x1y0z0"
    assert found(blocks, "x128y0z5") == "x0003_y0001"


@pytest.mark.parametrize(
    ("present", "name"),
    [
        pytest.param((), "x1y2z3", id="no-blocks-yet"),
        pytest.param(("x0y0z0",), "x1y2z3", id="named-by-index"),
        pytest.param(("x0001_y0001",), "x0002_y0003", id="named-as-by-the-original-service"),
    ],
)
def test_block_that_is_new_is_named_as_its_dataset_names_them(
    above: Path, blocks: Blocks, present: tuple[str, ...], name: str
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    for other in present:
        (above / other).mkdir()
    assert find(blocks, "x64y128z192") == BlockDirectory(("brain", "annotations", name), False)


def test_block_that_is_new_in_a_dataset_without_annotations_is_the_literal_name(
    tmp_path: Path, blocks: Blocks
) -> None:
    (tmp_path / "brain").mkdir()
    assert find(blocks, "x64y0z0") == BlockDirectory(("brain", "annotations", "x64y0z0"), False)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param("x-41y22z13", id="x"),
        pytest.param("x41y-22z13", id="y"),
        pytest.param("x41y22z-1", id="z"),
    ],
)
@pytest.mark.parametrize("size", [SIZE, None], ids=["with-block-info", "without-block-info"])
def test_block_position_that_is_negative_is_missing(
    above: Path, blocks: Blocks, block: str, size: str | None
) -> None:
    if size:
        (above / "block_info.csv").write_text(size)
    (above / "x0y0z0").mkdir()
    for means in (find, named):
        with pytest.raises(MissingError, match="outside the volume"):
            means(blocks, block)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param("x1y2", id="no-z"),
        pytest.param("x1y2z", id="no-number"),
        pytest.param("X1Y2Z3", id="capitals"),
        pytest.param("x+1y2z3", id="plus"),
        pytest.param("x1.5y2z3", id="fraction"),
        pytest.param("x1y2z3 ", id="space-at-the-end"),
        pytest.param("x1y2z3a", id="letter-at-the-end"),
        pytest.param("x\N{ARABIC-INDIC DIGIT ONE}y2z3", id="digits-of-another-script"),
        pytest.param("x0001_y0002", id="legacy-name-that-is-absent"),
        pytest.param("x" + "9" * 19 + "y0z0", id="too-many-digits"),
    ],
)
def test_block_that_is_neither_a_directory_nor_a_position_is_missing(
    above: Path, blocks: Blocks, block: str
) -> None:
    (above / "block_info.csv").write_text(SIZE)
    for means in (find, named):
        with pytest.raises(MissingError, match="x<int>y<int>z<int>"):
            means(blocks, block)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"64,32,16", id="no-line-end"),
        pytest.param(b"64,32,16\n", id="line-end"),
        pytest.param(b"64,32,16\r\n", id="windows-line-end"),
        pytest.param(b" 64 , 32 , 16 \n", id="spaces"),
        pytest.param(b"\n\n64,32,16\n", id="empty-lines-before"),
        pytest.param(b"\xef\xbb\xbf64,32,16\n", id="byte-order-mark"),
        pytest.param(b'"64","32","16"\n', id="quotes"),
    ],
)
def test_block_info_in_any_csv_spelling_gives_the_block_size(
    above: Path, blocks: Blocks, content: bytes
) -> None:
    (above / "block_info.csv").write_bytes(content)
    assert blocks.size_vx(("brain", "annotations")) == (64, 32, 16)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n\n", id="blank"),
        pytest.param(b"64,64", id="two-numbers"),
        pytest.param(b"64,64,0", id="zero"),
        pytest.param(b"64,-64,64", id="negative"),
        pytest.param(b"64,64.5,64", id="fraction"),
        pytest.param(b"64,64,nan", id="nan"),
        pytest.param(b"64,,64", id="gap"),
        pytest.param(b"64 64 64", id="no-commas"),
        pytest.param(b"x,y,z", id="letters"),
        pytest.param(b"\xff\xfe6\x004\x00", id="not-utf8"),
        pytest.param(b"64,64,64\x00", id="nul"),
        pytest.param(b'"64,64,64', id="open-quote"),
        pytest.param(b"9" * 5000 + b",64,64", id="thousands-of-digits"),
        pytest.param(b"9" * 200_000, id="a-cell-beyond-the-limit-of-csv"),
    ],
)
def test_block_info_that_is_malformed_means_literal_names_and_a_warning(
    above: Path, blocks: Blocks, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (above / "block_info.csv").write_bytes(content)
    (above / "x1y0z0").mkdir()
    assert found(blocks, "x1y0z0") == "x1y0z0"
    assert find(blocks, "x64y0z0") == BlockDirectory(("brain", "annotations", "x64y0z0"), False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{above / 'block_info.csv'} is empty or malformed" in caplog.text
    assert WARNING in caplog.text


def test_block_info_that_is_a_directory_means_literal_names_and_a_warning(
    above: Path, blocks: Blocks, caplog: pytest.LogCaptureFixture
) -> None:
    (above / "block_info.csv").mkdir()
    assert found(blocks, "x64y0z0") == "x64y0z0"
    assert WARNING in caplog.text


def test_block_info_that_is_missing_means_literal_names_and_a_warning(
    above: Path, blocks: Blocks, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(blocks, "x64y0z0") == "x64y0z0"
    assert f"{above / 'block_info.csv'} is missing" in caplog.text
    assert WARNING in caplog.text


@pytest.mark.parametrize("content", [None, "nothing,of,use"], ids=["missing", "malformed"])
def test_block_info_that_stays_as_it_is_gives_one_warning_for_many_requests(
    above: Path, blocks: Blocks, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if content:
        (above / "block_info.csv").write_text(content)
    for x in range(5):
        find(blocks, f"x{x}y0z0")
    assert len(caplog.records) == 1


def test_block_info_rewritten_on_disk_is_noticed(above: Path, blocks: Blocks) -> None:
    info = above / "block_info.csv"
    write(info, "64,64,64", age_s=10)
    assert found(blocks, "x64y0z0") == "x1y0z0"
    write(info, "16,16,16")  # as long as before
    assert found(blocks, "x64y0z0") == "x4y0z0"


def test_block_info_that_comes_goes_breaks_and_is_mended_is_noticed(
    above: Path, blocks: Blocks, caplog: pytest.LogCaptureFixture
) -> None:
    info = above / "block_info.csv"
    assert found(blocks, "x64y0z0") == "x64y0z0"
    write(info, SIZE, age_s=40)
    assert found(blocks, "x64y0z0") == "x1y0z0"
    write(info, "", age_s=30)
    assert found(blocks, "x64y0z0") == "x64y0z0"
    write(info, "32,32,32", age_s=20)
    assert found(blocks, "x64y0z0") == "x2y0z0"
    info.unlink()
    assert found(blocks, "x64y0z0") == "x64y0z0"
    assert [record.message.count("missing") for record in caplog.records] == [1, 0, 1]


def test_block_info_replaced_by_another_file_is_noticed(above: Path, blocks: Blocks) -> None:
    info, new = above / "block_info.csv", above / "new.csv"
    info.write_text("64,64,64")
    assert found(blocks, "x64y0z0") == "x1y0z0"
    new.write_text("32,32,32")
    new.replace(info)
    assert found(blocks, "x64y0z0") == "x2y0z0"


def test_block_size_belongs_to_its_dataset_alone(tmp_path: Path, blocks: Blocks) -> None:
    for dataset, size in (("a", "8,8,8"), ("b", "32,32,32")):
        directory = tmp_path / "lab" / dataset / "annotations"
        directory.mkdir(parents=True)
        (directory / "block_info.csv").write_text(size)
    names = [blocks.at(("lab", dataset), (64, 0, 0)).text for dataset in ("a", "b", "a")]
    assert names == ["x8y0z0", "x2y0z0", "x8y0z0"]
