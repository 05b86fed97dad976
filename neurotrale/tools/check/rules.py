"""Every kind of finding: its severity, what viewers show, and how to fix it.

An *error* hides or breaks existing data. A *warning* is something that viewers cope with, though
perhaps not as intended. A *note* is only worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class FindingKind:
    """A kind of finding.

    Attributes:
        name: Identifier for scripts; it never changes.
        severity: How serious it is.
        summary: What is wrong, in a few words.
        viewer: What viewers show.
        fix: What to do about it.
    """

    name: str
    severity: Severity
    summary: str
    viewer: str
    fix: str


def _error(name: str, summary: str, viewer: str, fix: str) -> FindingKind:
    return FindingKind(name, "error", summary, viewer, fix)


def _warning(name: str, summary: str, viewer: str, fix: str) -> FindingKind:
    return FindingKind(name, "warning", summary, viewer, fix)


def _note(name: str, summary: str, viewer: str, fix: str) -> FindingKind:
    return FindingKind(name, "note", summary, viewer, fix)


_TABLE: Final = (
    _error(
        "info-missing",
        "there is no info file",
        "The source does not open: viewers report that no dataset was found.",
        "Write an info file, or name the directory that has one. 'neurotrale ingest' writes it.",
    ),
    _error(
        "info-broken",
        "info cannot be parsed",
        "The source does not open; the service answers 500 for its chunks.",
        "Correct info as the detail says. Neuroglancer's Precomputed format describes what info"
        " must contain.",
    ),
    _error(
        "scale-broken",
        "info describes an invalid scale",
        "Neuroglancer refuses the whole source.",
        "Correct the scale in info.",
    ),
    _error(
        "scale-missing",
        "a scale has no chunks at all",
        "Nothing at this zoom level: the image disappears or stays as coarse as the next scale.",
        "Make the chunks of the scale, or take the scale out of info.",
    ),
    _error(
        "chunk-missing",
        "chunks are missing",
        "Black boxes, without a message: a missing chunk is drawn as empty.",
        "Write them again, for example with 'neurotrale ingest' of the same planes. If they are"
        " missing because they are empty, use --sparse.",
    ),
    _error(
        "chunk-damaged",
        "chunks are damaged, or do not match info and their names",
        "An error instead of the chunk (status 500, or data that cannot be decompressed), and an"
        " empty box.",
        "If all of them have another data type or extent than info states, correct info."
        " Otherwise move them aside and write them again, from the planes or from a copy.",
    ),
    _error(
        "chunk-encoding",
        "TIFF chunks in a scale whose encoding is not raw",
        "An error for every chunk (status 500).",
        "Change the encoding of the scale in info to 'raw'.",
    ),
    _error(
        "chunk-off-grid",
        "chunks whose names do not match the grid of info",
        "Empty boxes: viewers never request these names.",
        "Correct size, chunk_sizes or voxel_offset in info if the names are right; otherwise write"
        " the chunks again. Ends are clipped at the edge of the volume, and numbers have no leading"
        " zeros.",
    ),
    _error(
        "shard-damaged",
        "shard files are damaged",
        "Errors or empty boxes for the chunks in them.",
        "Move them aside and write them again, from the planes or from a copy.",
    ),
    _error(
        "shard-misplaced",
        "chunks in a shard where no reader looks for them",
        "Empty boxes: the chunks are never found.",
        "Correct 'sharding' in info if the shards are right; otherwise move them aside and write"
        " them again.",
    ),
    _error(
        "unreadable",
        "files or directories that cannot be read",
        "Empty boxes or no annotations, without a message (status 403).",
        "Give the user who runs the service read permission on files (chmod a+r), and read and"
        " execute permission on directories (chmod a+rx).",
    ),
    _error(
        "link-outside",
        "symbolic links that leave the data root or lead to hidden files",
        "Nothing, as if the file did not exist (status 404).",
        "Move the files below the data root, use a root that contains them, or start the service"
        " with --follow-symlinks.",
    ),
    _error(
        "link-broken",
        "symbolic links whose target does not exist",
        "Nothing, as if the file did not exist (status 404).",
        "Restore the target, or point the link to where it is now; in a container, bind the"
        " directory that the finding names.",
    ),
    _error(
        "annotations-empty",
        "annotation files without any content",
        "No annotations; the service answers 500, and saving an annotation fails.",
        "If the file has a history, use 'neurotrale restore FILE --revision N'. Otherwise move it"
        " aside and write '[]' to a new file.",
    ),
    _error(
        "annotations-broken",
        "annotation files that are not a JSON array",
        "No annotations; the service answers 500, and saving an annotation fails.",
        "Keep a copy. Then correct the file as the detail says, or restore an earlier version with"
        " 'neurotrale restore FILE --revision N'.",
    ),
    _error(
        "annotation-malformed",
        "annotations that break a rule",
        "NeuroTrALE shows an alert, drops all annotations of that kind, and saves the file without"
        " them.",
        "Correct the annotations as the detail says; docs/annotations.md lists the rules.",
    ),
    _error(
        "id-repeated",
        "ids that appear more than once in a file",
        "It is undefined which of them is shown and changed; PATCH and DELETE are refused (409),"
        " and so is the next save of the file.",
        "Give each annotation its own id.",
    ),
    _error(
        "archive-damaged",
        "archives of the history that are damaged",
        "Nothing changes, and saves go on. Older changes and revisions, and corrections, cannot be"
        " read (status 500, or 404 for a revision).",
        "Put the file back from a backup. Until then keep it: what is not damaged can be read.",
    ),
    _error(
        "history-incomplete",
        "records of the history that neither an archive nor the journal has",
        "Nothing changes, and saves go on. Changes and revisions before them, and corrections,"
        " cannot be read, or lack them.",
        "Put the archives and the journal back from one backup.",
    ),
    _warning(
        "edge-missing",
        "chunks at the far edge of a coarser scale are missing",
        "An empty rim when zoomed out. precomputed-tif omits these chunks, as it counts one too"
        " few.",
        "No fix is needed. 'neurotrale ingest' of the same planes makes them.",
    ),
    _warning(
        "never-served",
        "names that are never served",
        "Nothing, as if the file did not exist (status 404).",
        "Rename them: no leading dot, no backslash, no control characters, valid UTF-8.",
    ),
    _warning(
        "blocks-mixed",
        "blocks with both kinds of names",
        "If a block exists under both names, only x1y0z0 is shown; new blocks get the old kind of"
        " name.",
        "Rename x0002_y0001 to x1y0z0 and so on: counted from 0, with z. If a block has both names,"
        " merge their annotations into one of them first.",
    ),
    _warning(
        "block-size",
        "block_info.csv is missing or malformed",
        "Only the annotations of the first block: no position in the volume leads to a block.",
        "Write the block size in voxels into annotations/block_info.csv, as in 250,420,150.",
    ),
    _warning(
        "block-outside",
        "blocks outside the volume",
        "Nothing: no position in the volume leads to them.",
        "Correct block_info.csv, or move the annotations to the block that contains them.",
    ),
    _warning(
        "id-elsewhere",
        "ids that appear in several files",
        "The viewer keeps one annotation per id: if both files are loaded, one of them is not"
        " shown.",
        "Give each annotation its own id, or move a file that is a copy out of the blocks.",
    ),
    _warning(
        "slice-name",
        "contours of a slice whose number does not have four digits",
        "Nothing: the viewer requests the last four digits, with leading zeros.",
        "Rename z-7.json to z-0007.json, if that file does not exist yet. For slices above 9999,"
        " split the volume along z, or keep such contours in another file of the block.",
    ),
    _warning(
        "tree-broken",
        "tree.json is not valid JSON",
        "The tree is not shown.",
        "Correct it, or move it aside.",
    ),
    _note(
        "slices-many",
        "the volume has more than 9999 slices",
        "Contours of slices 10,000 apart come from the same file: its name has only four digits.",
        "No fix is needed if no one draws contours; otherwise split the volume along z.",
    ),
    _note(
        "annotation-odd",
        "annotations with unusual content, which is preserved",
        "Possibly nothing.",
        "No fix is needed.",
    ),
    _note(
        "chunk-twice",
        "chunks that are stored in several files",
        "Only one of the files is served: the first with no suffix, .tiff, .tif, .gz or .br, in"
        " this order.",
        "Compare them, and move aside the ones that are not wanted.",
    ),
    _note(
        "chunk-empty",
        "chunks of a single value that 'neurotrale ingest --skip-empty' left out",
        "0 in these places.",
        "No fix is needed. Programs that read chunks have to expect missing ones; in cloud-volume,"
        " fill_missing=True.",
    ),
    _note(
        "blockfs",
        "voxels in blockfs, the default format of precomputed-tif",
        "The voxels: they are served as chunks.",
        "No fix is needed. 'neurotrale ingest --source DATASET' makes TIFF chunks of them, which"
        " are served faster.",
    ),
    _note(
        "other-layout",
        "voxels in a layout that is not served as chunks",
        "Nothing of them in this source.",
        "Keep them: they may be the only copy. For this source, make TIFF chunks of the same"
        " voxels with 'neurotrale ingest' from this dataset or from the planes."
        " Viewers open zarr and N5 directly, with zarr:// or n5:// before the URL.",
    ),
    _note(
        "stray",
        "files and directories that are not part of what info describes",
        "Nothing: no viewer requests them.",
        "No fix is needed. Correct mistyped names; files that people still need can be kept"
        " elsewhere.",
    ),
    _note(
        "leftover",
        "temporary files of a program that was killed or is still running",
        "Nothing.",
        "No fix is needed: the next save or repack cleans up its own. Others can be moved aside"
        " when no program is writing.",
    ),
    _note(
        "not-looked-into",
        "content that this check cannot judge",
        "Unknown.",
        "No fix is needed.",
    ),
)
KINDS: Final = {kind.name: kind for kind in _TABLE}
