"""Puts the demo data set on disk, all of it or nothing."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from neurotrale.demo.annotate import write_annotations
from neurotrale.demo.render import render
from neurotrale.demo.scene import make_scene
from neurotrale.demo.tissue import RESOLUTION_NM
from neurotrale.ingest.plan import Request, plan_for
from neurotrale.ingest.run import run_finish, run_shard
from neurotrale.ingest.volume import Volume

NAME: Final = "demo-brain"
_SEED: Final = 3
_SCALES: Final = 3
_CORES: Final = 2


def write_demo(root: Path) -> Path:
    """Make the data set `demo-brain` below `root`, unless it is there already.

    A data set that has an `info` file is left exactly as it is: its annotations may have been
    edited. A build that is interrupted leaves no `demo-brain` behind.

    Args:
        root: directory of data sets; made when missing.

    Returns:
        `root / "demo-brain"`: 500 x 420 x 150 voxels (x, y, z) of uint16 in three scales, and
        annotations in two blocks along x.

    Raises:
        FileExistsError: `demo-brain` is there, but is not a data set.
        OSError: `root` cannot be written to.
    """
    target = root / NAME
    if (target / "info").is_file():
        return target
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} has no info file: move it away to have the demo made")
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{NAME}-", dir=root) as hidden:
        # One level further down: the temporary directory itself is closed to everybody else.
        dataset = Path(hidden) / NAME
        dataset.mkdir()
        _build(dataset)
        try:
            dataset.rename(target)
        except OSError:
            # Another process may have been faster; its data set is the same.
            if not (target / "info").is_file():
                raise
    return target


def _build(dataset: Path) -> None:
    scene = make_scene(_SEED)
    x, y, z = RESOLUTION_NM
    request = Request("the demo's scene", dataset, (x, y, z), levels=_SCALES, cores=_CORES)
    plan = plan_for(request, Volume(render(scene, _SEED)))
    run_shard(plan, 1, _unwatched)
    run_finish(plan, _unwatched)
    write_annotations(scene, dataset / "annotations")


def _unwatched(done: int, total: int) -> None:
    """Take no notice: the demo is made in seconds."""
